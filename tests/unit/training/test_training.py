"""Training: resuming is bit-identical; unsuitable checkpoints, data and losses are named errors."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rwsa.audio import rms
from rwsa.config import merge
from rwsa.errors import DivergedError, InputError
from rwsa.files import read_json, sha256_of, write_json
from rwsa.models import load_model
from rwsa.shards import Example
from rwsa.shards.sampling import Cursor, sample_rng
from rwsa.training.checkpoints import STATE_FILE, Checkpoints
from rwsa.training.data import TrainData, ValidData
from rwsa.training.optimiser import OptimiserConfig, learning_rate
from rwsa.training.segments import crop_or_pad, normalise
from rwsa.training.state import TrainState
from tests.training_runs import (
    AUDIBLE,
    RATE_HZ,
    Log,
    assert_same_bits,
    config_of,
    example,
    trained,
    write_shards,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


class TestResuming:
    @pytest.mark.parametrize("metric", [0, 0.05])
    def test_an_interrupted_and_resumed_run_is_bit_identical(
        self, shards: Path, tmp_path: Path, metric: float
    ) -> None:
        # Step 3 spans two epochs.
        config = config_of(shards, loss_weights={"metric": metric}, model=AUDIBLE if metric else {})
        straight, interrupted, resumed = Log(), Log(interrupt_at=3), Log()
        expected = trained(config, tmp_path / "straight", straight)
        with pytest.raises(KeyboardInterrupt):
            trained(config, tmp_path / "interrupted", interrupted)
        state = trained(config, tmp_path / "interrupted", resumed)

        assert straight.steps.keys() == {1, 2, 3, 4}
        assert resumed.steps == {step: straight.steps[step] for step in (3, 4)}
        assert [interrupted.steps[step] for step in (1, 2)] == [straight.steps[step] for step in (1, 2)]
        assert expected.cursor.epoch == 1
        assert_same_bits(expected, state)
        if metric:
            discriminator = {"discriminator_clean", "discriminator_enhanced"}
            assert "metric" in straight.steps[1]
            assert not discriminator & straight.steps[1].keys()  # one step behind
            assert discriminator < straight.steps[2].keys()
            assert any(values.get("discriminator_enhanced", 0) > 0 for values in straight.steps.values())
        else:
            assert expected.discriminator is None
            assert "metric" not in straight.steps[1]

    def test_raising_max_steps_of_a_finished_run_is_bit_identical(self, shards: Path, tmp_path: Path) -> None:
        first, rest = Log(), Log()
        trained(config_of(shards, max_steps=1), tmp_path / "parts", first)
        parts = trained(config_of(shards, max_steps=3), tmp_path / "parts", rest)
        straight = Log()
        assert_same_bits(parts, trained(config_of(shards, max_steps=3), tmp_path / "straight", straight))
        losses = {step: values["total"] for step, values in (first.steps | rest.steps).items()}
        assert losses == {step: values["total"] for step, values in straight.steps.items()}
        assert len(set(losses.values())) == 3

    def test_a_finished_run_takes_no_more_steps(self, shards: Path, tmp_path: Path) -> None:
        done, log = trained(config_of(shards, max_steps=1), tmp_path), Log()
        assert_same_bits(done, trained(config_of(shards, max_steps=1), tmp_path, log))
        assert log.steps == {}

    def test_the_saved_weights_are_the_trained_ones(self, shards: Path, tmp_path: Path) -> None:
        state = trained(config_of(shards, max_steps=2), tmp_path)
        saved = load_model(tmp_path / "checkpoints" / "step-000002" / "generator.safetensors")
        assert saved.config == state.config.model
        pairs = zip(saved.parameters(), state.generator.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two steps, with a discriminator that is trained from the second step."""
    folder = tmp_path_factory.mktemp("finished")
    trained(config_of(shards, max_steps=2, loss_weights={"metric": 0.05}), folder)
    return folder


class TestRefusing:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"seed": 1}, "saved with another 'order'"),
            ({"data": {"open_shards": 1}}, "saved with another 'order'"),
            ({"model": {"d_state": 5}}, "saved with another 'model'"),
            ({"model": {"sharing": "block"}}, "saved with another 'model'"),
            ({"loss_weights": {"time": 0.3}}, "saved with another 'loss_weights'"),
            ({"loss_weights": {"metric": 0}}, "saved with another 'loss_weights'"),
        ],
    )
    def test_a_checkpoint_of_another_configuration_is_refused(
        self, shards: Path, finished: Path, changes: dict[str, Any], message: str
    ) -> None:
        config = config_of(shards, **merge({"loss_weights": {"metric": 0.05}}, changes))
        with pytest.raises(InputError, match=message) as caught:
            trained(config, finished)
        assert "step-000002" in str(caught.value)
        assert "give the run another name" in str(caught.value)

    @pytest.mark.parametrize(
        ("file", "change", "message"),
        [
            ("generator", lambda t: t.pop("merges.0.weight"), r"missing merges\.0\.weight"),
            ("generator", lambda t: t.update(more=torch.zeros(1)), "unexpected more"),
            ("state", lambda t: t.pop("discriminator.slope"), "missing slope"),
            (
                "state",
                lambda t: t.pop("generator_optimiser.3.exp_avg"),
                r"generator_optimiser: does not fit; missing or left over: 3\.exp_avg;",
            ),
            (
                "state",
                lambda t: t.update({"discriminator_optimiser.99.step": torch.zeros(())}),
                r"discriminator_optimiser: does not fit; missing or left over: 99\.step;",
            ),
            pytest.param(
                "state",
                lambda t: without(t, "generator_optimiser."),
                r"generator_optimiser: .*0\.exp_avg,",
            ),
            pytest.param(
                "state",
                lambda t: t.update({"generator_optimiser.0.exp_avg": torch.zeros(7)}),
                r"generator_optimiser: .*0\.exp_avg",
            ),
            pytest.param("state", lambda t: t.update({"other.0": torch.zeros(1)}), r"other\.0"),
        ],
    )
    def test_a_checkpoint_with_wrong_tensors_is_refused(
        self,
        shards: Path,
        finished: Path,
        tmp_path: Path,
        file: str,
        change: Callable[[dict[str, Tensor]], Any],
        message: str,
    ) -> None:
        shutil.copytree(finished, tmp_path / "run")
        edit(tmp_path / "run" / "checkpoints" / "step-000002" / f"{file}.safetensors", change)
        config = config_of(shards, max_steps=3, loss_weights={"metric": 0.05})
        with pytest.raises(InputError, match=message):
            trained(config, tmp_path / "run")

    def test_missing_shards_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such index"):
            trained(config_of(tmp_path), tmp_path / "run")

    def test_a_batch_that_ranks_cannot_share_equally_is_refused(self, shards: Path) -> None:
        data = TrainData(config_of(shards).data, seed=0, segment_samples=100)
        with pytest.raises(InputError, match="multiple of 2"):
            next(data.segments(Cursor(), global_batch_size=3, rank=0, world_size=2))


def edit(path: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(path)
    change(tensors)
    header = path.read_bytes()
    length = int.from_bytes(header[:8], "little")
    metadata = json.loads(header[8 : 8 + length]).get("__metadata__")
    save_file(tensors, path, metadata=metadata)
    saved = read_json(path.with_name(STATE_FILE))
    saved["files"][path.name] = sha256_of(path)
    write_json(path.with_name(STATE_FILE), saved)


def without(tensors: dict[str, Tensor], prefix: str) -> None:
    for name in [name for name in tensors if name.startswith(prefix)]:
        del tensors[name]


def test_a_loss_that_is_not_finite_is_an_error_with_step_and_clips(shards: Path, tmp_path: Path) -> None:
    config = config_of(shards, max_steps=1)
    trained(config, tmp_path)
    newest = tmp_path / "checkpoints" / "step-000001" / "generator.safetensors"
    edit(newest, lambda tensors: tensors["merges.0.weight"].fill_(3e38))  # finite, but not its output
    with pytest.raises(
        DivergedError,
        match=r"^step 2: not finite: .*total.* clips train-\d, train-\d; the same command resumes",
    ):
        trained(config_of(shards, max_steps=3), tmp_path)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-000001"}


def test_out_of_memory_names_options_that_need_less(shards: Path, tmp_path: Path) -> None:
    # The features of 65,536 frames are one allocation, which no memory that was freed before can serve.
    config = config_of(shards, model={"segment_frames": 65_536})
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (256 << 20), limits[1]))
    try:
        with pytest.raises(InputError, match=r"^out of memory; raise accumulate.*: .*alloc"):
            trained(config, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


class TestLearningRate:
    def test_exponential_decays_per_epoch(self) -> None:
        config = OptimiserConfig(learning_rate=1e-3)
        rates = [learning_rate(config, step, epoch=e, max_steps=10) for step, e in ((0, 0), (9, 0), (9, 3))]
        assert rates == pytest.approx([1e-3, 1e-3, 1e-3 * 0.99**3], rel=1e-12)

    def test_cosine_decays_to_zero_over_the_run(self) -> None:
        config = OptimiserConfig(learning_rate=1e-3, schedule="cosine")
        rates = [learning_rate(config, step, epoch=5, max_steps=8) for step in (0, 2, 4, 8, 9)]
        assert rates == pytest.approx([1e-3, 1e-3 * (1 + 0.5**0.5) / 2, 5e-4, 0, 0], abs=1e-12)

    def test_warm_up_is_linear(self) -> None:
        config = OptimiserConfig(learning_rate=1e-3, warmup_steps=3)
        rates = [learning_rate(config, step, epoch=0, max_steps=10) for step in range(6)]
        assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])

    def test_both_optimisers_use_it(self, shards: Path) -> None:
        state = TrainState(
            config_of(shards, loss_weights={"metric": 0.05}, optimiser={"learning_rate": 0.5}),
            torch.device("cpu"),
        )
        state.cursor = Cursor(2, 0)
        assert state.set_learning_rate() == pytest.approx(0.5 * 0.99**2)
        rates = {group["lr"] for o in state.optimisers().values() for group in o.param_groups}
        assert rates == {0.5 * 0.99**2}
        assert len(state.optimisers()) == 2


def test_gradients_are_clipped_to_the_maximum_norm(shards: Path, tmp_path: Path) -> None:
    free, limited = Log(), Log()
    one = trained(config_of(shards, max_steps=1), tmp_path / "free", free)
    limit = {"optimiser": {"max_gradient_norm": 1e-9}}
    two = trained(config_of(shards, max_steps=1, **limit), tmp_path / "limited", limited)
    # The logged norm is before clipping; a gradient of 1e-9 is below AdamW's epsilon at its first step.
    assert limited.steps[1]["gradient_norm"] == free.steps[1]["gradient_norm"] > 1e-3
    moved = [
        (state.generator.merges[0].weight - fresh.generator.merges[0].weight).abs().max().item()
        for state in (one, two)
        for fresh in [TrainState(state.config, torch.device("cpu"))]
    ]
    assert moved[1] < 0.3 * moved[0]


def test_the_best_checkpoint_has_the_best_validation_score(shards: Path, tmp_path: Path) -> None:
    log = Log()
    trained(config_of(shards, max_steps=3, checkpoint_every_steps=1, keep_checkpoints=1), tmp_path, log)
    scores = {step: values["valid_si_sdr"] for step, values in log.steps.items()}
    best = Checkpoints(tmp_path / "checkpoints").best()
    assert best is not None
    assert best.name == f"step-{max(scores, key=scores.__getitem__):06d}"
    assert {values["valid_clips"] for values in log.steps.values()} == {2}


class TestData:
    def test_short_clips_are_padded_and_long_clips_cropped_at_the_same_place(self) -> None:
        rng = np.random.default_rng(0)
        noisy = np.arange(1.0, 8.0)
        padded, clean = crop_or_pad(noisy, -noisy, 10, rng)
        np.testing.assert_array_equal(padded, [1, 2, 3, 4, 5, 6, 7, 0, 0, 0])
        np.testing.assert_array_equal(clean, -padded)
        np.testing.assert_array_equal(crop_or_pad(noisy, -noisy, 7, rng)[0], noisy)
        starts = set()
        for _ in range(50):
            cropped, clean = crop_or_pad(noisy, -noisy, 4, rng)
            starts.add(int(cropped[0]))
            np.testing.assert_array_equal(cropped, cropped[0] + np.arange(4))
            np.testing.assert_array_equal(clean, -cropped)
        assert starts == {1, 2, 3, 4}

    def test_noisy_and_clean_are_divided_by_the_level_of_the_noisy_file(self) -> None:
        pair = example("a", 5000)
        noisy, clean = normalise(pair)
        assert rms(noisy) == pytest.approx(1, rel=1e-5)
        np.testing.assert_allclose(clean, pair.clean / rms(pair.noisy), rtol=1e-5)
        assert noisy.dtype == clean.dtype == np.float32

    def test_a_silent_noisy_file_is_refused(self) -> None:
        silent = Example(
            example_id="a-1", noisy=np.zeros(9), clean=np.zeros(9), sample_rate_hz=RATE_HZ, meta={}
        )
        with pytest.raises(InputError, match="example a-1: its noisy file is silent"):
            normalise(silent)

    def test_segments_are_the_planned_crops(self, shards: Path) -> None:
        data = TrainData(config_of(shards).data, seed=4, segment_samples=2400)
        batches = data.segments(Cursor(), global_batch_size=4, rank=1, world_size=2)
        first = next(batches)
        assert first.noisy.shape == first.clean.shape == (2, 2400)
        assert first.cursor_after == Cursor(0, 4)
        for name, noisy in zip(first.ids, first.noisy.numpy(), strict=True):
            clip = example(name, 600 + 1800 * int(name[-1]))
            expected, _ = crop_or_pad(*normalise(clip), 2400, sample_rng(4, 0, name))
            np.testing.assert_array_equal(noisy, expected)
        batches.close()  # type: ignore[attr-defined]

    def test_an_error_in_the_decoding_thread_is_raised(self, shards: Path, tmp_path: Path) -> None:
        shutil.copytree(shards, tmp_path / "damaged")
        for tar in (tmp_path / "damaged").glob("train-*.tar"):
            tar.write_bytes(b"\0" * tar.stat().st_size)
        data = TrainData(config_of(tmp_path / "damaged").data, seed=0, segment_samples=100)
        with pytest.raises(InputError, match=r"train-00000\d\.tar: member train-\d"):
            next(data.segments(Cursor(), global_batch_size=1, rank=0, world_size=1))

    def test_validation_over_ranks_has_every_example_once(self, shards: Path) -> None:
        data = ValidData(config_of(shards).data)
        ids = [e.example_id for rank in (0, 1, 2) for e in data.examples(rank=rank, world_size=3)]
        assert sorted(ids) == ["valid-0", "valid-1"]
        few = ValidData(config_of(shards, data={"valid_examples": 1}).data)
        assert [e.example_id for e in few.examples(rank=0, world_size=1)] == ["valid-0"]
