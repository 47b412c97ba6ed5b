"""How often a training step waits for its device: every copy of a number to Python is a wait."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rwsa import stft
from rwsa.training import optimiser
from rwsa.training.adversary import Adversary
from rwsa.training.config import TrainConfig
from rwsa.training.context import LocalContext
from rwsa.training.data import TrainData
from rwsa.training.hang import HangWatch
from rwsa.training.loop import _Run
from rwsa.training.state import TrainState
from tests.training_runs import Log, config_of, write_shards

WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal")


class Waits(TorchDispatchMode):
    """Counts operators whose result Python waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITS:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimiser and inverse STFT of GPUs, whose counterparts for CPUs ask for numbers."""
    monkeypatch.setattr(optimiser, "_has_fused", lambda _: True)

    def inverse(
        x: Tensor, n: int, hop: int, width: int, window: Tensor, *, center: bool, length: int
    ) -> Tensor:
        config = stft.SpectralConfig(n_fft=n, hop_samples=hop, window_samples=width)
        return stft.overlap_add(x, window, config, length)

    monkeypatch.setattr(torch, "istft", inverse)


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One element per tensor that became a list, which `Waits` does not see."""
    seen, tolist = list[int](), Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda x: seen.append(x.numel()) or tolist(x))
    return seen


def run_of(config: TrainConfig, context: LocalContext, adversary: Adversary, state: TrainState) -> _Run:
    return _Run(config, context, HangWatch(600, context.report_hang), state, adversary, "")


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_a_step_waits_once_to_check_its_losses(tmp_path: Path, lists: list[int]) -> None:
    config = config_of(write_shards(tmp_path), loss_weights={"metric": 0.05}, precision="bfloat16")
    context = LocalContext(tmp_path, Log(), device=torch.device("cpu"))
    state = TrainState(config, context.device)
    data = TrainData(config.data, seed=0, segment_samples=config.model.segment_samples)
    segments = data.segments(state.cursor, global_batch_size=2, rank=0, world_size=1)
    with closing(segments), Adversary(state, context) as adversary:
        run = run_of(config, context, adversary, state)
        for number in range(3):
            batch = next(segments)
            lists.clear()
            with Waits() as waits:
                losses = run._step(batch)
                assert lists == []
                assert not run._check(losses, batch)
            assert waits.seen == {}, number
            assert lists == [2]  # diverged, stopping
    assert {"discriminator_clean", "pesq_refused_share"} <= losses.keys()
