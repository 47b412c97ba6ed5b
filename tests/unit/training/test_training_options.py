"""Training options beyond the paper's recipe: accumulation, EMA, precision, patience, subsets, audio."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rwsa.enhancement import enhance
from rwsa.errors import InputError
from rwsa.files import read_json, write_json
from rwsa.metrics import score
from rwsa.models import load_model
from rwsa.shards import write_shard
from rwsa.shards.index import merge_index
from rwsa.shards.sampling import Cursor
from rwsa.training.context import LocalContext
from rwsa.training.data import TrainData, ValidData
from rwsa.training.sources import share_of_examples
from rwsa.training.state import TrainState, published_weights
from rwsa.training.validation import Validation
from tests.training_runs import (
    AUDIBLE,
    RATE_HZ,
    Log,
    assert_same_bits,
    config_of,
    example,
    tensors_of,
    trained,
    write_shards,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


def losses(log: Log, name: str = "total") -> list[float]:
    return [values[name] for _, values in sorted(log.steps.items()) if name in values]


def test_accumulation_gives_the_same_step(shards: Path, tmp_path: Path) -> None:
    full, parts = Log(), Log()
    settings = {"global_batch_size": 4, "max_steps": 2}
    trained(config_of(shards, **settings), tmp_path / "full", full)
    trained(config_of(shards, **settings, accumulate=2), tmp_path / "parts", parts)
    assert losses(parts) == pytest.approx(losses(full), rel=1e-4)
    assert losses(parts, "gradient_norm")[0] == pytest.approx(losses(full, "gradient_norm")[0], rel=1e-3)


def test_unequal_parts_are_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="accumulate"):
        trained(config_of(shards, global_batch_size=2, accumulate=3), tmp_path)


def test_the_averaged_weights_are_published(shards: Path, tmp_path: Path) -> None:
    config = config_of(shards, max_steps=2, average_decay=0.5)
    state = trained(config, tmp_path)
    folder = tmp_path / "checkpoints" / "step-000002"
    published, last = load_model(published_weights(folder)), load_model(folder / "generator.safetensors")
    name = "merges.0.weight"
    assert torch.equal(published.state_dict()[name], state.published.state_dict()[name])
    assert not torch.equal(published.state_dict()[name], last.state_dict()[name])


def test_the_average_is_over_the_steps(shards: Path, tmp_path: Path) -> None:
    after = {}
    for steps in (1, 2):
        config = config_of(shards, max_steps=steps, optimiser={"schedule": "exponential"}, average_decay=0.5)
        after[steps] = trained(config, tmp_path / str(steps))
    one, two = (after[steps].generator.merges[0].weight for steps in (1, 2))
    # The average starts with the weights of the first step.
    torch.testing.assert_close(after[2].published.merges[0].weight, 0.5 * one + 0.5 * two)


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "bfloat16", "average_decay": 0.9, "remix": {"min_snr_db": -5.0, "max_snr_db": 5.0}},
        {"precision": "float16", "accumulate": 2},
    ],
    ids=" ".join,
)
def test_an_interrupted_and_resumed_run_is_bit_identical(
    shards: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    config = config_of(shards, max_steps=4, **options)
    straight, interrupted, resumed = Log(), Log(interrupt_at=3), Log()
    expected = trained(config, tmp_path / "straight", straight)
    with pytest.raises(KeyboardInterrupt):
        trained(config, tmp_path / "interrupted", interrupted)
    assert_same_bits(expected, trained(config, tmp_path / "interrupted", resumed))
    repeated = {step: straight.steps[step] for step in (3, 4)}
    if options["precision"] == "float16":  # whose first gradient norms may be NaN
        np.testing.assert_equal(resumed.steps, repeated)
    else:
        assert resumed.steps == repeated
    if expected.averaged is not None:
        again = load_file(published_weights(tmp_path / "interrupted" / "checkpoints" / "step-000004"))
        ours = load_file(published_weights(tmp_path / "straight" / "checkpoints" / "step-000004"))
        assert [name for name in ours if not torch.equal(ours[name], again[name])] == []


def test_a_checkpoint_without_an_average_does_not_resume_with_one(shards: Path, tmp_path: Path) -> None:
    trained(config_of(shards, max_steps=1), tmp_path)
    with pytest.raises(InputError, match=r"step-000001: was saved without an average of the weights"):
        trained(config_of(shards, max_steps=2, average_decay=0.9), tmp_path)


def test_lower_precision_gives_similar_losses(shards: Path, tmp_path: Path) -> None:
    full, half = Log(), Log()
    trained(config_of(shards, max_steps=1), tmp_path / "full", full)
    trained(config_of(shards, max_steps=1, precision="bfloat16"), tmp_path / "half", half)
    assert losses(half) != losses(full)
    assert losses(half) == pytest.approx(losses(full), rel=0.05)


@pytest.mark.full
def test_compilation_gives_the_same_losses(shards: Path, tmp_path: Path) -> None:
    plain, compiled = Log(), Log()
    trained(config_of(shards, max_steps=2), tmp_path / "plain", plain)
    config = config_of(shards, max_steps=2, compile_backend="aot_eager")
    state = trained(config, tmp_path / "compiled", compiled)
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-4)
    assert load_model(tmp_path / "compiled" / "checkpoints" / "step-000002" / "generator.safetensors")
    assert not any("_orig_mod" in name for name in tensors_of(state))


def test_patience_ends_training_for_good(shards: Path, tmp_path: Path) -> None:
    # At this learning rate the score does not change.
    config = config_of(
        shards, max_steps=50, checkpoint_every_steps=1, patience=2, optimiser={"learning_rate": 1e-20}
    )
    state = trained(config, tmp_path)
    assert state.step == 3
    assert state.validations_since_best == 2
    log = Log()
    assert_same_bits(state, trained(config, tmp_path, log))
    assert log.steps == {}


def test_validation_counts_failures_and_needs_one_value(shards: Path, tmp_path: Path) -> None:
    log = Log()
    trained(config_of(shards, max_steps=1), tmp_path / "counted", log)
    counts = {
        name: value for name, value in log.steps[1].items() if name.endswith(("failed", "missing", "clips"))
    }
    assert counts == {"valid_si_sdr_failed": 0, "valid_clips": 2, "valid_missing": 0}
    # An eighth of a second is too short for PESQ.
    with pytest.raises(InputError, match=r"validation by pesq gives no value \(valid-1: "):
        trained(config_of(shards, max_steps=1, best_metric="pesq"), tmp_path / "none")


class TestPendingPair:
    def test_a_checkpoint_holds_it_in_the_order_of_the_global_batch(
        self, shards: Path, tmp_path: Path
    ) -> None:
        config = config_of(shards, max_steps=1, loss_weights={"metric": 0.05}, model=AUDIBLE)
        trained(config, tmp_path)
        tensors = load_file(tmp_path / "checkpoints" / "step-000001" / "state.safetensors")
        pending = {name: t for name, t in tensors.items() if name.startswith("pending.")}
        assert {name: len(t) for name, t in pending.items()} == {
            "pending.clean": 2,
            "pending.enhanced": 2,
            "pending.target": 2,
        }
        state = TrainState(config, torch.device("cpu"))
        state.load(tmp_path / "checkpoints" / "step-000001", order_identity=order_of(tmp_path))
        assert torch.equal(state.pending["target"], pending["pending.target"])
        assert torch.isfinite(state.pending["target"]).any()
        for rank, part in enumerate((slice(0, 1), slice(1, 2))):  # of two ranks, each reads its own
            state.load(
                tmp_path / "checkpoints" / "step-000001", order_identity=order_of(tmp_path), share=part
            )
            assert torch.equal(state.pending["clean"], pending["pending.clean"][rank : rank + 1])

    def test_another_batch_size_is_refused(self, shards: Path, tmp_path: Path) -> None:
        config = config_of(shards, max_steps=1, loss_weights={"metric": 0.05})
        trained(config, tmp_path)
        with pytest.raises(InputError, match="has 2 segments, and global_batch_size is now 4"):
            trained(
                config_of(shards, max_steps=2, loss_weights={"metric": 0.05}, global_batch_size=4), tmp_path
            )

    def test_a_run_without_metric_loss_has_none(self, shards: Path, tmp_path: Path) -> None:
        trained(config_of(shards, max_steps=1), tmp_path)
        tensors = load_file(tmp_path / "checkpoints" / "step-000001" / "state.safetensors")
        assert not any(name.startswith("pending.") for name in tensors)


def order_of(folder: Path) -> str:
    return read_json(folder / "checkpoints" / "step-000001" / "state.json")["order"]


def test_overfit_trains_and_validates_on_the_first_examples(shards: Path, tmp_path: Path) -> None:
    config = config_of(shards, max_steps=2, data={"overfit": 4})
    data = TrainData(config.data, seed=0, segment_samples=config.model.segment_samples)
    with closing(data.segments(Cursor(), global_batch_size=4, rank=0, world_size=1)) as segments:
        seen = [next(segments).ids for _ in range(3)]
    # The fourth is the first of the second shard.
    assert {tuple(sorted(ids)) for ids in seen} == {("train-0", "train-1", "train-2", "train-3")}
    valid = [example.example_id for example in ValidData(config.data).examples(rank=0, world_size=1)]
    assert valid == ["train-0", "train-1", "train-2", "train-3"]
    log = Log()
    trained(config, tmp_path, log)
    assert log.steps[2]["valid_clips"] == 4
    with pytest.raises(InputError, match="saved with another 'order'"):
        trained(config_of(shards, max_steps=3), tmp_path)


def test_a_silent_noisy_file_is_an_error_or_replaced(tmp_path: Path) -> None:
    silent = dataclasses.replace(example("train-1", 3000), noisy=np.zeros(3000, dtype=np.int16))
    write_shard(tmp_path, "train", 0, [example("train-0", 3000), silent], sample_rate_hz=RATE_HZ)
    write_shard(tmp_path, "valid", 0, [example("valid-0", 3000)], sample_rate_hz=RATE_HZ)
    merge_index(tmp_path)
    seen = []
    for on_corrupt in ("skip", "error"):
        data = TrainData(
            config_of(tmp_path, data={"on_corrupt": on_corrupt}).data, seed=0, segment_samples=2000
        )
        with closing(data.segments(Cursor(), global_batch_size=2, rank=0, world_size=1)) as segments:
            if on_corrupt == "skip":
                seen.append(next(segments))
            else:
                with pytest.raises(InputError, match="example train-1: its noisy file is silent"):
                    next(segments)
    assert (seen[0].ids, seen[0].replaced) == (("train-0", "train-0"), 1)


class SlotSource:
    """A source whose examples are their shard and slot."""

    sizes, contents = (30, 10, 20), ("slots",)

    def loader(self, epoch: int, shard: int, slot: int) -> Callable[[], Any]:
        return lambda: (shard, slot)

    def executor(self) -> Executor:
        raise AssertionError("not used")

    def close(self) -> None:
        pass


def test_a_share_is_drawn_from_all_shards() -> None:
    # Not the first examples: recordings of one speaker may be adjacent.
    share = share_of_examples(SlotSource(), 0.3)
    slots = [share.loader(0, shard, slot)() for shard, size in enumerate(share.sizes) for slot in range(size)]
    assert len(set(slots)) == len(slots) == 18
    assert {shard for shard, _ in slots} == {0, 1, 2}
    assert share.contents == ("slots", "18 of 60")


def ids_of_share(shards: Path, share: float) -> set[str]:
    data = config_of(shards, data={"train_share": share}).data
    train = TrainData(data, seed=0, segment_samples=2000)
    with closing(train.segments(Cursor(), global_batch_size=1, rank=0, world_size=1)) as segments:
        return {next(segments).ids[0] for _ in range(train.order.samples)}


def test_a_smaller_share_is_a_subset_of_a_larger_one(shards: Path, tmp_path: Path) -> None:
    full, half, least = (ids_of_share(shards, share) for share in (1, 0.5, 0.01))
    assert (len(half), len(least)) == (len(full) // 2, 1)
    assert least < half < full
    trained(config_of(shards, max_steps=2, data={"train_share": 0.5}), tmp_path)
    with pytest.raises(InputError, match="saved with another 'order'"):
        trained(config_of(shards, max_steps=3), tmp_path)


def test_audio_samples_are_logged_at_their_interval_and_at_the_end(shards: Path, tmp_path: Path) -> None:
    log = Log()
    state = trained(config_of(shards, max_steps=5, audio_every_steps=3, audio_clips=1), tmp_path, log)
    assert log.audio.keys() == {3, 5}
    (clip,) = log.audio[5]
    assert clip.example_id == "valid-0"
    assert len(clip.noisy) == len(clip.enhanced) == len(clip.clean) == 2000
    ours = enhance(clip.noisy, RATE_HZ, state.published.eval())
    np.testing.assert_allclose(clip.enhanced, ours, atol=1e-5)
    silent = Log()
    trained(config_of(shards, max_steps=1, audio_clips=0), tmp_path / "silent", silent)
    assert silent.audio == {}


def test_overfit_overrides_valid_examples(shards: Path) -> None:
    data = config_of(shards, data={"overfit": 4, "valid_examples": 2}).data
    assert ValidData(data).clips == 4


def test_another_sample_rate_is_refused(tmp_path: Path) -> None:
    write_shard(
        tmp_path,
        "train",
        0,
        [dataclasses.replace(example("a", 900), sample_rate_hz=8000)],
        sample_rate_hz=8000,
    )
    merge_index(tmp_path)
    with pytest.raises(InputError, match=r"is at 8000 Hz, and models are trained at 16000 Hz"):
        TrainData(config_of(tmp_path).data, seed=0, segment_samples=100)


def test_a_float32_run_resumes_in_float16(shards: Path, tmp_path: Path) -> None:
    trained(config_of(shards, max_steps=1), tmp_path)
    state = trained(config_of(shards, max_steps=2, precision="float16"), tmp_path)
    assert state.step == 2


def test_a_deleted_best_checkpoint_is_replaced_by_the_next_best(shards: Path, tmp_path: Path) -> None:
    trained(config_of(shards, max_steps=2, optimiser={"learning_rate": 1e-9}), tmp_path)
    saved = read_json(tmp_path / "checkpoints" / "step-000002" / "state.json")
    write_json(
        tmp_path / "checkpoints" / "step-000002" / "state.json", saved | {"best_step": 1, "best_score": 99.0}
    )
    state = trained(config_of(shards, max_steps=4), tmp_path)
    assert state.best_step == 4
    assert state.best_score < 99


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_batched_validation_gives_the_scores_of_single_clips(
    shards: Path, tmp_path: Path, batch: int
) -> None:
    config = config_of(shards, valid_batch_size=batch, best_metric="ssnr", data={"overfit": 5})
    context = LocalContext(tmp_path)
    state = TrainState(config, context.device)
    metrics = Validation(config, context).metrics(state.published)
    assert state.published.training
    values: dict[str, list[float]] = {"si_sdr": [], "ssnr": []}
    for one in ValidData(config.data).examples(rank=0, world_size=1):
        enhanced = enhance(one.noisy, RATE_HZ, state.published.eval())
        for name, value in score(one.clean, enhanced, tuple(values)).items():
            if isinstance(value, float):
                values[name].append(value)
    for name, each in values.items():
        assert metrics[f"valid_{name}"] == pytest.approx(sum(each) / len(each), abs=1e-2)
        assert metrics[f"valid_{name}_failed"] == 5 - len(each)
