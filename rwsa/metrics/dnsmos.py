"""DNSMOS P.835: what listeners would say of a clip, as a network guesses it without the clean one.

The network is the file that the package `speechmos` ships, run by onnxruntime as the package runs it. The
package's own function is not called: it would import librosa, start a thread a core, and run another
network besides.
"""

from __future__ import annotations

import functools
from importlib.resources import as_file, files
from typing import Any, NamedTuple

import numpy as np

from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.metrics.packages import load
from rwsa.metrics.values import UndefinedError

_WINDOW_SECONDS = 9.01
_WINDOW_SAMPLES = int(_WINDOW_SECONDS * SAMPLE_RATE_HZ)
_MODEL = "dnsmos_models/sig_bak_ovr.onnx"


class Ratings(NamedTuple):
    """Mean opinion scores on the scales of ITU-T P.835, 1 to 5."""

    sig: float
    bak: float
    ovrl: float


# From the network's outputs to opinion scores, in the order of `Ratings`.
_FITTED = (
    np.poly1d([-0.08397278, 1.22083953, 0.0052439]),
    np.poly1d([-0.13166888, 1.60915514, -0.39604546]),
    np.poly1d([-0.06766283, 1.11546468, 0.04602535]),
)


def dnsmos(enhanced: np.ndarray) -> Ratings:
    """DNSMOS P.835: speech (SIG), background (BAK) and overall quality (OVRL), MOS, about 1 to 5.

    A quadratic of the network's output over windows of 9.01 s, one a second, and the mean over them. A
    shorter clip is played on until it is long enough, doubling, as the package does. The common level
    matters.

    Args:
        enhanced: float64 `[samples]` at 16 kHz, full scale ±1.

    Raises:
        UndefinedError: `enhanced` is silent, or goes beyond ±1, for which the network was not made and
            which the package refuses: write the clip as audio (clipped), or turn it down, and say so.
        InputError: speechmos or onnxruntime is not installed.

    Source: Reddy et al., DNSMOS P.835, ICASSP 2022; package speechmos 0.0.1.1, `dnsmos.run`.
    """
    session = _session()
    peak = float(np.abs(enhanced).max(initial=0))
    if peak == 0:
        raise UndefinedError("enhanced is silent")
    if peak > 1:
        beyond = int(np.sum(np.abs(enhanced) > 1))
        raise UndefinedError(
            f"DNSMOS is defined within ±1; {beyond} samples are beyond, the furthest at {peak:.3f}"
        )
    wav = enhanced
    while len(wav) < _WINDOW_SAMPLES:
        wav = np.append(wav, wav)
    raw_N3 = np.stack(
        [session.run(None, {"input_1": part.astype(np.float32)[None]})[0][0] for part in _windows(wav)]
    )
    return Ratings(*(float(fit(column).mean()) for fit, column in zip(_FITTED, raw_N3.T, strict=True)))


def _windows(wav: np.ndarray) -> list[np.ndarray]:
    """One a second; where a bound rounds to a sample less, its window is left out, as in the package."""
    count = int(len(wav) // SAMPLE_RATE_HZ - _WINDOW_SECONDS) + 1
    windows = [
        wav[second * SAMPLE_RATE_HZ : int((second + _WINDOW_SECONDS) * SAMPLE_RATE_HZ)]
        for second in range(count)
    ]
    return [window for window in windows if len(window) >= _WINDOW_SAMPLES]


@functools.cache
def _session() -> Any:
    """The network, on one thread: a process is one worker, and clips are what is shared out."""
    runtime, package = load("onnxruntime"), load("speechmos")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with as_file(files(package) / _MODEL) as path:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
