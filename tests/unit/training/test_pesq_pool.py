"""PESQ in background processes: order, scaling, failures and crashes."""

from __future__ import annotations

import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from rwsa.errors import InputError
from rwsa.metrics import score
from rwsa.metrics.pesq_process import PesqProcess
from rwsa.metrics.values import UndefinedError
from rwsa.training.pesq_pool import PesqPool

RATE_HZ = 16_000


def syllables(samples: int, seed: int) -> np.ndarray:
    """Noise with the envelope of speech, which PESQ accepts."""
    wav = np.random.default_rng(seed).standard_normal(samples)
    return (0.1 * wav * (0.02 + np.sin(2 * np.pi * 2 * np.arange(samples) / RATE_HZ) ** 2)).astype(np.float32)


def test_targets_are_scaled_in_order_and_nan_where_pesq_fails() -> None:
    speech, noise = syllables(8000, 0), 0.02 * syllables(8000, 1) + 0.001
    clean = torch.from_numpy(np.stack([speech, speech, np.zeros(8000, np.float32), speech, speech]))
    bad = speech.copy()
    bad[7] = math.nan
    enhanced = torch.from_numpy(np.stack([speech, speech + noise, speech, bad, np.zeros(8000, np.float32)]))
    with PesqPool(2) as pool:
        first, second = pool.submit(clean, 5 * enhanced), pool.submit(clean[:1], enhanced[1:2])
        same, noisy, *failed = first.wait().tolist()
        assert second.wait().item() == pytest.approx(noisy, abs=1e-5)
    assert same == pytest.approx((4.644 - 1) / 3.5, abs=1e-3)
    direct = score(speech, speech + noise, ("pesq",))["pesq"]
    assert isinstance(direct, float)
    assert noisy == pytest.approx((direct - 1) / 3.5, abs=1e-5)
    assert all(math.isnan(value) for value in failed)


def kill(process: PesqProcess, number: signal.Signals) -> None:
    assert process._child is not None
    process._child.send_signal(number)
    process._child.wait()


def test_a_crash_is_undefined_and_a_kill_is_retried() -> None:
    speech = syllables(8000, 0).astype(np.float64)
    with PesqProcess() as process:
        before = process.score(speech, speech)
        kill(process, signal.SIGSEGV)
        with pytest.raises(UndefinedError, match="crashed"):
            process.score(speech, speech)
        assert process.score(speech, speech) == before
        kill(process, signal.SIGKILL)
        assert process.score(speech, speech) == before


def test_signals_to_the_process_group_are_ignored() -> None:
    speech = syllables(8000, 0).astype(np.float64)
    with PesqProcess() as process:
        before = process.score(speech, speech)
        child = process._child
        assert child is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            child.send_signal(number)
        assert process.score(speech, speech) == before
        assert process._child is child


def test_a_missing_package_is_an_input_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pesq.py").write_text("raise ImportError('no pesq here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    speech = syllables(8000, 0).astype(np.float64)
    with PesqProcess() as process, pytest.raises(InputError, match=r"exited twice .*no pesq here"):
        process.score(speech, speech)


def test_close_ends_all_processes() -> None:
    pool = PesqPool(1)
    process = pool._idle.get()
    pool._idle.put(process)
    clean = torch.from_numpy(syllables(8000, 0))[None]
    pool.submit(clean, clean).wait()
    child = process._child
    assert child is not None
    pool.close()
    assert child.returncode == 0
