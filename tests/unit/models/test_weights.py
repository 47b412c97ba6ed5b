"""Loading and saving of weights, with strict checks, safely, and in the authors' format."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rwsa.config import as_mapping
from rwsa.errors import InputError
from rwsa.models import SIZES, ModelConfig, RWSAMambaUNet, build_model, load_model, save_model
from rwsa.models.weight_files import read_tensors
from rwsa.models.weights import load_weights, read_weights, weights_of

TINY = ModelConfig(channels=8, blocks=1, segment_frames=32, d_state=4, expand=2, heads=2, middle_heads=2)


@pytest.fixture
def model() -> RWSAMambaUNet:
    return build_model(TINY, seed=3)


def test_a_round_trip_preserves_weights_and_configuration(tmp_path: Path, model: RWSAMambaUNet) -> None:
    save_model(tmp_path / "m.safetensors", model, {"step": 7})
    again = load_model(tmp_path / "m.safetensors")
    assert again.config == TINY
    assert not again.training
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(again.state_dict()[n], w) for n, w in model.state_dict().items())
    assert {path.name for path in tmp_path.iterdir()} == {"m.safetensors"}


def test_shared_weights_are_stored_once(tmp_path: Path, model: RWSAMambaUNet) -> None:
    save_model(tmp_path / "m.safetensors", model)
    stored = read_weights(tmp_path / "m.safetensors")
    assert sum(w.numel() for w in stored.values()) == sum(p.numel() for p in model.parameters())
    assert len(stored) < len(model.state_dict())


def test_all_mismatches_are_listed_and_the_model_is_unchanged(model: RWSAMambaUNet) -> None:
    before = {name: w.clone() for name, w in weights_of(model).items()}
    weights = {name: w + 1 for name, w in before.items()}
    del weights["encoder.widen.0.bias"], weights["merges.0.weight"]
    weights["extra.weight"] = torch.zeros(1)
    weights["phase_decoder.real.weight"] = torch.zeros(1, 9, 1, 1)
    with pytest.raises(InputError) as caught:
        load_weights(model, weights, where="w.safetensors")
    assert str(caught.value) == (
        "w.safetensors: weights do not fit the model: missing encoder.widen.0.bias, merges.0.weight;"
        " unexpected extra.weight; phase_decoder.real.weight is [1, 9, 1, 1] where [1, 8, 1, 1] is expected"
    )
    assert all(torch.equal(w, before[name]) for name, w in weights_of(model).items())


def test_weights_of_another_configuration_are_refused(tmp_path: Path, model: RWSAMambaUNet) -> None:
    save_model(tmp_path / "m.safetensors", model)
    other = build_model(
        ModelConfig(channels=8, blocks=1, d_state=4, expand=2, heads=2, middle_heads=2, depth=2)
    )
    with pytest.raises(InputError, match="unexpected down_stages"):
        load_weights(other, read_weights(tmp_path / "m.safetensors"), where="m")


def test_a_size_builds_the_same_untrained_model_each_time() -> None:
    one, two = build_model("nano"), build_model("nano")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    with pytest.raises(InputError, match="model size 'nanno' is unknown; choose nano, xs, s, m"):
        build_model("nanno")


@pytest.mark.parametrize("name", SIZES)
def test_a_size_is_not_loaded_as_trained_weights(name: str) -> None:
    message = f"'{name}' is a model size, not a weights file.*; give trained weights.*build_model"
    with pytest.raises(InputError, match=message):
        load_model(name)
    with pytest.raises(InputError, match=message):
        load_model(Path(name))


def test_a_file_may_have_the_name_of_a_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: RWSAMambaUNet
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"generator": 3}, "xs")
    with pytest.raises(InputError, match="xs: not the published format"):
        load_model("xs")


@pytest.mark.parametrize("name", ["none.safetensors", "nanno"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: no such file; give weights that training wrote"):
        load_model(tmp_path / name)


class Bomb:
    """A pickle that writes a file when it is loaded as code."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.target,)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    bomb = {"generator": Bomb(tmp_path / "exploded")}
    torch.save(bomb, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(bomb))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(InputError, match=rf"{name}: neither safetensors nor a checkpoint") as caught:
            load_model(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "exploded").exists()
    pickle.loads((tmp_path / "plain.pth").read_bytes())  # loading it as code does
    assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_damaged_files_are_refused(tmp_path: Path, model: RWSAMambaUNet, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    if suffix == ".pth":
        torch.save({"generator": model.state_dict()}, path)
    else:
        save_model(path, model)
    complete = path.read_bytes()
    for content in (b"", complete[:5], complete[: len(complete) // 2], complete[:-1], b"\0" * 100):
        path.write_bytes(content)
        with pytest.raises(InputError, match=path.name):
            load_model(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".ckpt"])
def test_random_bytes_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    for seed in range(150):
        rng = np.random.default_rng(seed)
        # Half of them start like a pickle, to reach further into the reader.
        path.write_bytes(b"\x80\x02" * (seed % 2) + rng.bytes(int(rng.integers(1, 200))))
        with pytest.raises(InputError, match=path.name):
            load_model(path)


@pytest.mark.parametrize(
    "content",
    [{}, {"generator": 3}, {"generator": {}}, [1, 2], {"model": {}}, {"generator": {3: torch.zeros(1)}}]
    + [
        {"generator": {"dense_encoder.dense_conv_1.0.weight": value}}
        for value in (3, torch.zeros(7, 2, 1, 1))
    ],
)
def test_tensors_in_another_structure_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(InputError, match=r"m\.pth: "):
        load_model(tmp_path / "m.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, model: RWSAMambaUNet, value: float) -> None:
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = value
    save_model(tmp_path / "m.safetensors", model)
    with pytest.raises(InputError, match=r"m\.safetensors: '.*' holds values that are not finite"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("config", [None, "{", "[1]", json.dumps({"chanels": 8})])
def test_safetensors_without_a_usable_configuration_are_refused(tmp_path: Path, config: str | None) -> None:
    metadata = None if config is None else {"config": config}
    save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", metadata=metadata)
    with pytest.raises(InputError, match=r"m\.safetensors: "):
        load_model(tmp_path / "m.safetensors")


@pytest.fixture(scope="module")
def nano() -> dict[str, torch.Tensor]:
    """The tensors of the size nano as `state_dict` gives them, with copies of shared ones."""
    return build_model("nano").state_dict()


def prefixed(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


WRAPPINGS: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, Any]]] = {
    "plain": dict,
    "DDP": lambda t: prefixed(t, "module."),
    "torch.compile within DDP": lambda t: prefixed(t, "module._orig_mod."),
    "a compiled part": lambda t: {n.replace("encoder.", "encoder._orig_mod.", 1): w for n, w in t.items()},
    "averaged": lambda t: {"n_averaged": torch.tensor(3), **prefixed(t, "module.")},
    "Lightning": lambda t: {
        "state_dict": {**prefixed(t, "model."), "loss.window": torch.ones(3)},
        "epoch": 1,
        "hyper_parameters": {"lr": 0.1},
    },
    "beside a discriminator": lambda t: {"generator": t, "discriminator": {"a": torch.ones(1)}},
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_wrapped_weights_are_read_by_their_own_names(
    tmp_path: Path, nano: dict[str, torch.Tensor], wrap: Callable[[dict[str, torch.Tensor]], dict[str, Any]]
) -> None:
    torch.save(wrap(nano), tmp_path / "weights")
    tensors, metadata = read_tensors(tmp_path / "weights", where="w")
    assert metadata == {}
    assert all(torch.equal(tensors[name], tensor) for name, tensor in nano.items())
    assert tensors.keys() == nano.keys()


def test_plain_weights_of_a_size_load_without_suffix_and_configuration(
    tmp_path: Path, nano: dict[str, torch.Tensor]
) -> None:
    torch.save(WRAPPINGS["Lightning"](nano), tmp_path / "weights")
    model = load_model(tmp_path / "weights")
    assert model.config == SIZES["nano"]
    assert all(torch.equal(tensor, nano[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ""])
def test_a_path_may_hold_any_bytes(tmp_path: Path, model: RWSAMambaUNet, suffix: str) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 o'b\n"))
    folder.mkdir()
    save_model(folder / f"-m{suffix}", model)
    assert load_model(folder / f"-m{suffix}").config == TINY


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, model: RWSAMambaUNet, value: float) -> None:
    with torch.no_grad():
        model.encoder.widen[0].bias[3] = value
    save_model(tmp_path / "m.safetensors", model)
    with pytest.raises(InputError, match=r"'encoder\.widen\.0\.bias' holds values that are not finite"):
        load_model(tmp_path / "m.safetensors")


OTHER_FILES = {
    b"": "is empty; fetch it again",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n": "of Git LFS.*git lfs pull",
    b"\n<!DOCTYPE html><html>404</html>": "is a web page.*fetch it again",
    b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>': "is a web page.*fetch it again",
    (1 << 60).to_bytes(8, "little") + b"{}": "its header is cut off.*fetch it again",
}


@pytest.mark.parametrize("suffix", ["", ".safetensors", ".pth"])
@pytest.mark.parametrize("content", OTHER_FILES)
def test_other_files_are_named(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: .*{OTHER_FILES[content]}"):
        load_model(path)


def test_a_checkpoint_of_torch_named_safetensors_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"is a checkpoint of torch, not safetensors; rename it to \.pth"):
        load_model(tmp_path / "m.safetensors")


def float32(shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": float32([2], 0, 8), "b": float32([2], 4, 12)},
        {"a": float32([2], 0, 8), "b": float32([2], 0, 8)},
        {"a": float32([1 << 40], 0, 1 << 42)},
        {"a": float32([1 << 63, 1 << 63], 0, 12)},
        {"a": float32([-1], 0, 12)},
        {"a": {**float32([3], 0, 12), "dtype": "F99"}},
        {"a": {**float32([16], 0, 12), "dtype": "F6_E2M3"}},
    ],
)
def test_impossible_headers_are_refused(tmp_path: Path, tensors: dict[str, Any]) -> None:
    header = json.dumps(tensors).encode()
    (tmp_path / "m").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 12)
    with pytest.raises(InputError, match=r"m: not a readable safetensors file .*; fetch it again") as caught:
        load_model(tmp_path / "m")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor.to("meta"),
        lambda tensor: torch.nested.nested_tensor([tensor]),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensors_that_are_not_dense_are_refused(
    tmp_path: Path, nano: dict[str, torch.Tensor], change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    torch.save({**nano, "encoder.widen.0.bias": change(nano["encoder.widen.0.bias"])}, tmp_path / "m.pth")
    with pytest.raises(InputError, match=r"'encoder\.widen\.0\.bias' is a sparse, nested or meta tensor"):
        load_model(tmp_path / "m.pth")


def test_weights_of_another_size_are_refused_in_a_short_line(
    model: RWSAMambaUNet, nano: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(InputError, match=r" and \d+ more; they fit the size nano$") as caught:
        load_weights(model, weights_of(build_model("nano")), where="m.pth")
    assert len(str(caught.value)) < 400


def test_weights_of_another_network_are_refused_in_a_short_line(tmp_path: Path) -> None:
    tensors = {f"{'layer' * 1000}{number}.weight": torch.zeros(1) for number in range(300)}
    torch.save(tensors, tmp_path / "m.pth")
    with pytest.raises(
        InputError, match=r" and 298 more\) are those of none of the sizes nano, xs"
    ) as caught:
        load_model(tmp_path / "m.pth")
    assert len(str(caught.value)) < 600


def test_integers_are_refused(tmp_path: Path, nano: dict[str, torch.Tensor]) -> None:
    torch.save({name: tensor.int() for name, tensor in nano.items()}, tmp_path / "m.pth")
    with pytest.raises(InputError, match=r"do not fit the model: not of real numbers: .* and \d+ more$"):
        load_model(tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("slope", "holds a discriminator.*; give the generator's weights"),
        ("generator_optimiser.a", r"is the optimisers' state; give generator\.safetensors"),
    ],
)
def test_other_parts_of_a_checkpoint_are_named(tmp_path: Path, name: str, what: str) -> None:
    save_file({name: torch.zeros(1), "discriminator.b": torch.zeros(1)}, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=what):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "changed",
    [{"blocks": 512}, {"channels": 512, "heads": 512, "middle_heads": 512}, {"d_state": 512, "expand": 512}],
)
def test_a_configuration_far_larger_than_the_weights_is_refused_unbuilt(
    tmp_path: Path, model: RWSAMambaUNet, monkeypatch: pytest.MonkeyPatch, changed: dict[str, int]
) -> None:
    config = json.dumps(as_mapping(TINY) | changed)
    save_file(weights_of(model), tmp_path / "m.safetensors", metadata={"config": config})

    def build_a_size(config: ModelConfig) -> RWSAMambaUNet:
        assert config in SIZES.values()
        return build_model(config)

    monkeypatch.setattr("rwsa.models.weights.build_model", build_a_size)
    with pytest.raises(InputError, match=r"its configuration \(C .*\) is not that of its weights; give"):
        load_model(tmp_path / "m.safetensors")


class TestOfficialFormat:
    @pytest.fixture
    def published(self, official: Path) -> dict[str, torch.Tensor]:
        checkpoint = torch.load(official / "RWSA_xs_random.pth", weights_only=True)
        assert len(checkpoint["generator"]) == 829
        return checkpoint["generator"]

    def test_it_loads_and_saves_as_our_own(self, tmp_path: Path, official: Path) -> None:
        model = load_model(official / "RWSA_xs_random.pth")
        assert model.config == ModelConfig(channels=16, blocks=2)
        assert not model.training
        save_model(tmp_path / "m.safetensors", model)
        again = load_model(tmp_path / "m.safetensors")
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))

    @pytest.mark.parametrize("copy", ["shared_attention_lvl1", "TSMamba1_encoder", "TSMamba2_decoder"])
    def test_copies_of_a_shared_attention_must_be_equal(
        self, tmp_path: Path, published: dict[str, torch.Tensor], copy: str
    ) -> None:
        name = next(n for n in published if n.startswith(copy) and n.endswith("in_proj_weight"))
        published[name] = published[name].clone()
        published[name][3, 5] += 1e-6
        torch.save({"generator": published}, tmp_path / "m.pth")
        with pytest.raises(InputError, match="differs from the other copies of its shared attention"):
            load_model(tmp_path / "m.pth")

    def test_names_must_be_known_and_complete(
        self, tmp_path: Path, published: dict[str, torch.Tensor]
    ) -> None:
        torch.save({"generator": published | {"new.weight": torch.zeros(1)}}, tmp_path / "m.pth")
        with pytest.raises(InputError, match=r"'new\.weight' is not a name of the published"):
            load_model(tmp_path / "m.pth")
        del published["down1_2.body.0.weight"]
        torch.save({"generator": published}, tmp_path / "m.pth")
        with pytest.raises(InputError, match=r"missing downsamples\.0\.body\.0\.weight"):
            load_model(tmp_path / "m.pth")
