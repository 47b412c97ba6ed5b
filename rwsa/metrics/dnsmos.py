"""DNSMOS P.835: opinion scores predicted by a network, without a clean clip.

The network is the ONNX file in the package `speechmos`, run as the package does. The package's own function
is not used, since it imports librosa, starts a thread per core and runs a second network.
"""

from __future__ import annotations

import functools
from importlib.resources import as_file, files
from typing import Any, NamedTuple

import numpy as np

from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.metrics.packages import import_package
from rwsa.metrics.values import UndefinedError

_WINDOW_SECONDS = 9.01
_WINDOW_SAMPLES = int(_WINDOW_SECONDS * SAMPLE_RATE_HZ)
_MODEL = "dnsmos_models/sig_bak_ovr.onnx"


class Ratings(NamedTuple):
    """Mean opinion scores on the scales of ITU-T P.835, 1 to 5."""

    sig: float
    bak: float
    ovrl: float


# Polynomials from the network's outputs to opinion scores, in the order of `Ratings`.
_POLYNOMIALS = (
    np.poly1d([-0.08397278, 1.22083953, 0.0052439]),
    np.poly1d([-0.13166888, 1.60915514, -0.39604546]),
    np.poly1d([-0.06766283, 1.11546468, 0.04602535]),
)


def dnsmos(enhanced: np.ndarray) -> Ratings:
    """DNSMOS P.835: speech (SIG), background (BAK) and overall quality (OVRL), MOS, about 1 to 5.

    The mean over windows of 9.01 s, one per second, of a quadratic of the network's output. Shorter clips are
    repeated by doubling until they are long enough, as in the package. The scores depend on the level.

    Args:
        enhanced: float64 `[samples]` at 16 kHz, full scale ±1.

    Raises:
        UndefinedError: `enhanced` is silent or exceeds ±1, which the package refuses too: clip it by
            writing it as audio, or reduce its level, and report that.
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
    return Ratings(*(float(fit(column).mean()) for fit, column in zip(_POLYNOMIALS, raw_N3.T, strict=True)))


def _windows(wav: np.ndarray) -> list[np.ndarray]:
    """One window per second, without those that rounding makes one sample short, as in the package."""
    count = int(len(wav) // SAMPLE_RATE_HZ - _WINDOW_SECONDS) + 1
    windows = [
        wav[second * SAMPLE_RATE_HZ : int((second + _WINDOW_SECONDS) * SAMPLE_RATE_HZ)]
        for second in range(count)
    ]
    return [window for window in windows if len(window) >= _WINDOW_SAMPLES]


@functools.cache
def _session() -> Any:
    """The network on one thread; parallelism is over clips, in worker processes."""
    runtime, package = import_package("onnxruntime"), import_package("speechmos")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with as_file(files(package) / _MODEL) as path:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
