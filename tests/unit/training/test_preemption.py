"""SIGTERM: training saves the current step, raises `PreemptedError` and resumes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from rwsa.errors import PreemptedError
from rwsa.training.context import LocalContext, StopSignal
from rwsa.training.loop import fit
from tests.training_runs import Log, assert_same_bits, config_of, trained, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


class StoppingLog(Log):
    """Sends SIGTERM to this process at a step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        super().log_metrics(step, values)
        if step == self._at and "total" in values:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("at", [2, 3])
def test_sigterm_saves_the_step_and_training_resumes(shards: Path, tmp_path: Path, at: int) -> None:
    config = config_of(shards, max_steps=5, checkpoint_every_steps=4, loss_weights={"metric": 0.05})
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop, pytest.raises(PreemptedError, match=rf"step {at + 1}, which is saved"):
        fit(config, LocalContext(tmp_path / "cut", StoppingLog(at), stop=stop))
    assert signal.getsignal(signal.SIGTERM) is before
    assert sorted(path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()) == [
        f"step-00000{at + 1}"
    ]
    rest = Log()
    resumed = trained(config, tmp_path / "cut", rest)
    assert min(rest.steps) == at + 2
    assert_same_bits(resumed, trained(config, tmp_path / "uninterrupted"))


def test_no_handlers_are_installed_outside_the_main_thread() -> None:
    seen: list[object] = []
    before = signal.getsignal(signal.SIGTERM)

    def enter() -> None:
        with StopSignal() as stop:
            seen.extend([stop.received, signal.getsignal(signal.SIGTERM)])

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [False, before]
