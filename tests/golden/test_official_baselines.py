"""The paper's baselines against results of their authors' code: outputs, modules, losses, gradients.

Of LSTM-SENet no code was published: its values are those of this project's reconstruction, computed apart.
The stored spectra are the input: in the authors' STFT rounding decides the phase of the first frame.

Legend: B batch, C channels, F frequency bins, T frames.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rwsa.errors import InputError
from rwsa.files import read_json
from rwsa.kernels.layout import SequenceAxis
from rwsa.losses import phase_losses
from rwsa.models import MambAttention, load_model
from rwsa.models.batch_norm import GlobalBatchNorm
from rwsa.models.mamba import BiMamba
from rwsa.stft import complex_parts, istft, stft
from tests.tensors import normal

# Each network and the first part of the names of its blocks.
BLOCKS = {
    "semamba": "TSMamba",
    "mpsenet": "TSConformer",
    "xlstm_senet": "TSxLSTM",
    "lstm_senet": "TSLSTM",
}
PARTS = {
    "dense_encoder": "encoder",
    "mask_decoder": "magnitude_decoder",
    "phase_decoder": "phase_decoder",
}
PARAMETERS = [("semamba", 100_689), ("mpsenet", 89_105), ("xlstm_senet", 98_801), ("lstm_senet", 92_209)]


@pytest.fixture(scope="module")
def baselines(official: Path) -> Path:
    folder = official / "baselines"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    return folder


def arrays(path: Path) -> dict[str, Tensor]:
    with np.load(path) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def network(baselines: Path, name: str) -> MambAttention:
    model = load_model(baselines / f"{name}_random.pth")
    assert isinstance(model, MambAttention)
    return model


def peak_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS)
def test_forward_pass(baselines: Path, name: str, parameters: int) -> None:
    model, theirs = network(baselines, name), arrays(baselines / f"{name}_io.npz")
    assert sum(p.numel() for p in model.parameters()) == parameters
    with torch.inference_mode():
        mag_BFT, pha_BFT = model(theirs["mag"], theirs["pha"])
        x_BCTF = torch.stack((theirs["mag"], theirs["pha"]), dim=1).transpose(2, 3)
        encoded_BCTF = model.encoder(x_BCTF)
        block_BCTF = model.blocks[0](encoded_BCTF.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    wav = istft(mag_BFT, pha_BFT, model.config.spectral, theirs["wav"].shape[-1])
    for ours, key in (
        (mag_BFT, "mag_out"),
        (wav, "wav_out"),
        (encoded_BCTF, "encoder_out"),
        (block_BCTF, "block0_out"),
    ):
        assert peak_error(ours, theirs[key]) < 1e-4, key
    difference = torch.remainder(pha_BFT - theirs["pha_out"] + math.pi, math.tau) - math.pi
    assert difference.abs().max() < 2e-3
    assert peak_error(complex_parts(mag_BFT, pha_BFT), theirs["com_out"]) < 1e-3


def before_merge(mixer: nn.Module, x_BTFC: Tensor, axis: SequenceAxis) -> Tensor:
    """Both directions' outputs, `[B, T, F, 2 C]`."""
    if isinstance(mixer, BiMamba):
        pairs = zip(mixer.norms, mixer.mixers, strict=True)
        return torch.cat([direction(x_BTFC, norm.weight, axis) for norm, direction in pairs], dim=-1)
    mixer.merge = nn.Identity()
    return mixer(x_BTFC, axis)


@pytest.mark.parametrize("name", ["semamba", "xlstm_senet", "lstm_senet"])
@pytest.mark.parametrize("axis", SequenceAxis)
def test_mixers_before_their_merge(baselines: Path, name: str, axis: SequenceAxis) -> None:
    model, theirs = network(baselines, name), arrays(baselines / f"{name}_io.npz")
    which = "time" if axis is SequenceAxis.TIME else "freq"
    mixer = model.blocks[0].mixers[0 if axis is SequenceAxis.TIME else 1]
    x_NLC = theirs[f"{which}_module_input"]
    x_BTFC = x_NLC.transpose(0, 1)[None] if axis is SequenceAxis.TIME else x_NLC[None]
    with torch.inference_mode():
        y_BTFC = before_merge(mixer, x_BTFC, axis)
    y_NLC = y_BTFC[0].transpose(0, 1) if axis is SequenceAxis.TIME else y_BTFC[0]
    assert peak_error(y_NLC, theirs[f"{which}_module"]) < 1e-4


def losses_of(model: MambAttention, pair: dict[str, Tensor]) -> dict[str, Tensor]:
    """Unweighted losses by name, from the stored spectra."""
    spectral = model.config.spectral
    mag_BFT, pha_BFT = model(pair["noisy_mag"], pair["noisy_pha"])
    wav = istft(mag_BFT, pha_BFT, spectral, pair["clean"].shape[-1])
    predicted = complex_parts(mag_BFT, pha_BFT)
    phases = phase_losses(pha_BFT, pair["clean_pha"])
    return {
        "magnitude": F.mse_loss(mag_BFT, pair["clean_mag"]),
        "complex": 2 * F.mse_loss(predicted, complex_parts(pair["clean_mag"], pair["clean_pha"])),
        "time": F.l1_loss(wav, pair["clean"]),
        "consistency": 2 * F.mse_loss(predicted, complex_parts(*stft(wav, spectral, epsilon=1e-10))),
        "phase": torch.stack(list(phases.values())).sum(),
        **phases,
    }


def assert_step(model: MambAttention, pair: dict[str, Tensor], gold: Any, weights: Any, blocks: str) -> None:
    losses = losses_of(model, pair)
    losses["total"] = torch.stack([weight * losses[name] for name, weight in weights.items()]).sum()
    found = {name: value.item() for name, value in losses.items()}
    assert found == pytest.approx(gold["losses"], rel=1e-5)
    losses["total"].backward()
    parts = {"whole": "", blocks: "blocks"} | PARTS
    norms = {
        theirs: math.sqrt(
            sum(
                parameter.grad.square().sum().item()
                for name, parameter in model.named_parameters()
                if parameter.grad is not None and name.startswith(ours)
            )
        )
        for theirs, ours in parts.items()
    }
    assert norms == pytest.approx({name: gold["gradient_norms"][name] for name in norms}, rel=2e-3)


@pytest.mark.parametrize("name", BLOCKS)
def test_losses_and_gradients_of_a_step(baselines: Path, name: str) -> None:
    gold = read_json(baselines / f"{name}_step.json")
    pair = arrays(baselines / "step_pair.npz")
    assert_step(network(baselines, name), pair, gold, gold["weights"], BLOCKS[name])


def test_mpsenets_batch_statistics_in_training(baselines: Path) -> None:
    gold, model = read_json(baselines / "mpsenet_step.json"), network(baselines, "mpsenet").train()
    trained = gold["train_mode_without_dropout"]
    assert_step(model, arrays(baselines / "step_pair.npz"), trained, gold["weights"], BLOCKS["mpsenet"])
    norms = [module for module in model.modules() if isinstance(module, GlobalBatchNorm)]
    found = [buffer.sum().item() for norm in norms for buffer in norm.buffers()]
    assert found == pytest.approx(list(trained["running_mean_after"].values()), rel=1e-5)


def test_mambattention_is_semamba_with_an_attention_before_each_mixer(
    baselines: Path, tmp_path: Path
) -> None:
    """No results of its code are stored: SEMamba's blocks, and torch's attention with the stored names."""
    semamba = torch.load(baselines / "semamba_random.pth", weights_only=True)["generator"]
    state = {name.replace("TSMamba.", "TFMambAttention."): tensor for name, tensor in semamba.items()}
    attention, norm = torch.nn.MultiheadAttention(16, 8, batch_first=True), torch.nn.LayerNorm(16)
    for prefix, module in (("attn", attention), ("layernorm", norm)):
        for name, tensor in module.state_dict().items():
            drawn = tensor + 0.3 * normal(*tensor.shape)
            state[f"TFMambAttention.0.attention.{prefix}.{name}"] = drawn
            module.state_dict()[name].copy_(drawn)
    torch.save({"generator": state}, tmp_path / "m.pth")
    model = load_model(tmp_path / "m.pth")
    assert isinstance(model, MambAttention)
    assert (model.config.sharing, model.config.heads) == ("block", 8)
    along_time, along_frequency = network(baselines, "semamba").blocks[0].mixers
    x_BTFC = normal(2, 7, 5, 16)

    def attended(rows: Tensor) -> Tensor:
        sequences = norm(rows.flatten(0, 1))
        return rows + attention(sequences, sequences, sequences)[0].view_as(rows)

    expected = attended(x_BTFC.transpose(1, 2)).transpose(1, 2)
    expected = attended(along_time(expected, SequenceAxis.TIME))
    expected = along_frequency(expected, SequenceAxis.FREQUENCY)
    torch.testing.assert_close(model.blocks[0](x_BTFC), expected, rtol=1e-4, atol=1e-5)


def test_mpsenets_later_version_is_named(baselines: Path) -> None:
    with pytest.raises(InputError, match=r"is MP-SENet's later Transformer version.*Conformer version"):
        load_model(baselines / "mpsenet_2024_random.pth")


@pytest.mark.parametrize("name", BLOCKS)
def test_names_must_be_known_and_complete(baselines: Path, tmp_path: Path, name: str) -> None:
    published = torch.load(baselines / f"{name}_random.pth", weights_only=True)["generator"]
    first = next(key for key in published if key.startswith(BLOCKS[name]))
    unknown = f"{BLOCKS[name]}.0.time_other.weight"
    torch.save({"generator": published | {unknown: torch.zeros(1)}}, tmp_path / "m.pth")
    with pytest.raises(InputError, match=rf"'{unknown}' is not a name of the published format"):
        load_model(tmp_path / "m.pth")
    for missing in (first, "mask_decoder.lsigmoid.slope"):
        torch.save({"generator": {k: v for k, v in published.items() if k != missing}}, tmp_path / "m.pth")
        with pytest.raises(InputError, match=r"m\.pth: (lacks a tensor|weights do not fit)"):
            load_model(tmp_path / "m.pth")
