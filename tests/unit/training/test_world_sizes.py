"""Training on two ranks equals training on one: losses, weights, errors and checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rwsa.errors import DivergedError, InputError
from rwsa.training.config import TrainConfig
from rwsa.training.context import LocalContext
from rwsa.training.loop import fit
from tests.golden_curve import assert_golden
from tests.training_runs import (
    Log,
    config_of,
    nano_config,
    tensors_of,
    trained,
    write_nano_shards,
    write_shards,
)

pytestmark = pytest.mark.full


class GlooContext(LocalContext):
    """One of several processes that share a checkpoint folder."""

    def __init__(self, rank: int, world_size: int, folder: Path) -> None:
        self.log = Log()
        super().__init__(folder, self.log)
        self.rank, self.world_size = rank, world_size


def spread(shards: Path, metric: float, **changes: Any) -> TrainConfig:
    settings = {"global_batch_size": 4, "max_steps": 3, "checkpoint_every_steps": 3}
    return config_of(shards, loss_weights={"metric": metric}, **(settings | changes))


@contextmanager
def two_ranks(rank: int, folder: Path) -> Iterator[None]:
    """The process group of a spawned process, with one thread."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def train_as_rank(rank: int, folder: Path) -> None:
    """Entry point of each spawned process."""
    shards = folder / "shards"
    runs = {"plain": spread(shards, 0), "metric": spread(shards, 0.05)}
    with two_ranks(rank, folder):
        for name, config in runs.items():
            context = GlooContext(rank, 2, folder / name)
            torch.save(tensors_of(fit(config, context)), folder / f"{name}-{rank}.pt")
            if rank == 0:
                (folder / f"{name}.json").write_text(json.dumps(context.log.steps))
        resume_both_ways(rank, shards, folder)
        fail_on_one_rank(rank, spread(shards, 0), folder)
        fail_on_different_checkpoints(rank, spread(shards, 0), folder)


def resume_both_ways(rank: int, shards: Path, folder: Path) -> None:
    """Resume a run of one process, and start one that one process resumes."""
    for name in ("started-by-one", "started-by-two"):
        steps = 4 if name == "started-by-one" else 2
        context = GlooContext(rank, 2, folder / name)
        fit(longer(shards, steps), context)
        if rank == 0:
            (folder / f"{name}.json").write_text(json.dumps(context.log.steps))


def longer(shards: Path, steps: int) -> TrainConfig:
    """A run whose checkpoint has all optional parts."""
    return spread(shards, 0.05, max_steps=steps, checkpoint_every_steps=2, average_decay=0.9)


def fail_on_one_rank(rank: int, config: TrainConfig, folder: Path) -> None:
    """A loss that is NaN on rank 1 only stops both ranks at the same step."""
    from rwsa.training import loop

    original = loop.TrainStep.__call__

    def with_nan(self: Any, segments: Any) -> dict[str, Tensor]:
        losses = original(self, segments)
        if rank == 1 and self.state.step == 1:
            losses["total"] = torch.tensor(math.nan)
        return losses

    loop.TrainStep.__call__ = with_nan  # type: ignore[method-assign]
    try:
        fit(config, GlooContext(rank, 2, folder / "diverged"))
    except DivergedError as error:
        (folder / f"diverged-{rank}").write_text(str(error))
    finally:
        loop.TrainStep.__call__ = original  # type: ignore[method-assign]


def fail_on_different_checkpoints(rank: int, config: TrainConfig, folder: Path) -> None:
    """Two ranks with different folders, as on nodes without a shared one."""
    run = folder / ("plain" if rank == 0 else "empty")
    try:
        fit(config, GlooContext(rank, 2, run))
    except InputError as error:
        (folder / f"apart-{rank}").write_text(str(error))


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the results of two ranks."""
    folder = tmp_path_factory.mktemp("together")
    write_shards(folder / "shards")
    trained(longer(folder / "shards", 2), folder / "started-by-one")
    torch.multiprocessing.spawn(train_as_rank, args=(folder,), nprocs=2)
    return folder


def curve(folder: Path, name: str) -> dict[int, dict[str, float]]:
    return {int(step): values for step, values in json.loads((folder / f"{name}.json").read_text()).items()}


@pytest.mark.parametrize(("name", "metric"), [("plain", 0), ("metric", 0.05)])
def test_losses_equal_those_of_one_process(together: Path, tmp_path: Path, name: str, metric: float) -> None:
    one, two = Log(), curve(together, name)
    trained(spread(together / "shards", metric), tmp_path, one)
    assert two.keys() == one.steps.keys()
    for step, values in one.steps.items():
        # Bins of nearly undefined phase dominate the gradient norm, and depend on rounding.
        norm, si_sdr = values.pop("gradient_norm"), values.pop("valid_si_sdr", 0)
        others = two[step]
        assert others.pop("gradient_norm") == pytest.approx(norm, rel=1e-3 if step == 1 else 0.5)
        assert others.pop("valid_si_sdr", 0) == pytest.approx(si_sdr, abs=0.05)
        assert others == pytest.approx(values, rel=1e-4), step


def train_nano_as_rank(rank: int, folder: Path) -> None:
    """Entry point of the ranks of the golden curve."""
    with two_ranks(rank, folder):
        context = GlooContext(rank, 2, folder / "nano")
        torch.save(tensors_of(fit(nano_config(folder / "nano-shards"), context)), folder / f"nano-{rank}.pt")
        if rank == 0:
            (folder / "nano.json").write_text(json.dumps(context.log.steps))


def test_twenty_steps_of_nano_match_the_golden_curve(tmp_path: Path) -> None:
    write_nano_shards(tmp_path / "nano-shards")
    torch.multiprocessing.spawn(train_nano_as_rank, args=(tmp_path,), nprocs=2)
    assert_golden(curve(tmp_path, "nano"))
    assert_same_on_both_ranks(tmp_path, "nano")


def assert_same_on_both_ranks(folder: Path, name: str) -> None:
    first, second = (torch.load(folder / f"{name}-{rank}.pt") for rank in (0, 1))
    assert any("discriminator" in key for key in first) == (name != "plain")
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


@pytest.mark.parametrize("name", ["plain", "metric"])
def test_both_ranks_end_with_identical_weights(together: Path, name: str) -> None:
    assert_same_on_both_ranks(together, name)


def test_the_discriminator_trains_on_clean_pairs_where_pesq_fails(together: Path) -> None:
    steps = curve(together, "metric")
    # Segments are too short for PESQ: only clean pairs are used.
    trained_steps = [steps[step] for step in (2, 3)]
    assert [values["pesq_refused_share"] for values in trained_steps] == [1.0] * 2
    assert [values["discriminator_enhanced"] for values in trained_steps] == [0.0] * 2
    assert len({values["discriminator_clean"] for values in trained_steps}) == 2


def test_a_checkpoint_resumes_at_another_world_size(together: Path, tmp_path: Path) -> None:
    config = longer(together / "shards", 4)
    straight, on_one = Log(), Log()
    state = trained(config, tmp_path, straight)
    resumed_state = trained(config, together / "started-by-two", on_one)
    assert (resumed_state.step, resumed_state.cursor) == (state.step, state.cursor)
    for resumed in (on_one.steps, curve(together, "started-by-one")):
        assert resumed.keys() == {3, 4}
        for step, values in resumed.items():
            same = {name: v for name, v in values.items() if name not in ("gradient_norm", "valid_si_sdr")}
            assert same == pytest.approx({name: straight.steps[step][name] for name in same}, rel=1e-3), step


def test_nan_on_one_rank_stops_both_with_the_same_message(together: Path) -> None:
    first, second = ((together / f"diverged-{rank}").read_text() for rank in (0, 1))
    assert first == second
    assert first.startswith("step 2: not finite: total of clips train-")


def test_ranks_with_different_checkpoints_are_refused(together: Path) -> None:
    for rank in (0, 1):
        assert "the ranks see different checkpoints" in (together / f"apart-{rank}").read_text()
