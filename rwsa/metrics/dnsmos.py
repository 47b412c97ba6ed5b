"""DNSMOS P.835 and P.808: opinion scores predicted by networks, without a clean clip.

The networks are ONNX files in the package `speechmos`, run as the package does. The package's own function
is not used, since it imports librosa, starts a thread per core and always runs both.
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
_MODEL, _P808_MODEL = "dnsmos_models/sig_bak_ovr.onnx", "dnsmos_models/model_v8.onnx"
# Of the P.808 network: it reads mel spectra of all but the last 160 samples of a window.
_MELS, _FFT, _HOP, _LEFT_OUT = 120, 321, 160, 160
_RANGE_DB, _LOWEST_POWER = 80.0, 1e-10


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
    session = _session(_MODEL)
    raw_N3 = np.stack(
        [
            session.run(None, {"input_1": part.astype(np.float32)[None]})[0][0]
            for part in _windows(_long_enough(enhanced))
        ]
    )
    return Ratings(*(float(fit(column).mean()) for fit, column in zip(_POLYNOMIALS, raw_N3.T, strict=True)))


def dnsmos_p808(enhanced: np.ndarray) -> float:
    """DNSMOS P.808: overall quality as a crowd rates it by ITU-T P.808, MOS, about 1 to 5.

    The mean of the network's output over windows as of `dnsmos`. The level does not matter.

    Args, raises: as of `dnsmos`.

    Source: Reddy et al., DNSMOS, ICASSP 2021; package speechmos 0.0.1.1, `dnsmos.run`.
    """
    session = _session(_P808_MODEL)
    spectra = (log_mel(part[:-_LEFT_OUT]) for part in _windows(_long_enough(enhanced)))
    scores = [session.run(None, {"input_1": one.astype(np.float32)[None]})[0][0][0] for one in spectra]
    return float(np.mean(scores))


def log_mel(wav: np.ndarray) -> np.ndarray:
    """The P.808 network's input, `[frames, 120]`: mel spectra in dB below the highest, from −1 to 1.

    As librosa's `melspectrogram` and `power_to_db`, which the package uses: Slaney's mel scale and
    normalisation, centred Hann windows of 321 samples.
    """
    padded = np.pad(wav, _FFT // 2)
    frames_NT = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP]
    window_T = 0.5 * (1 - np.cos(2 * np.pi * np.arange(_FFT) / _FFT))
    power_NM = np.square(np.abs(np.fft.rfft(frames_NT * window_T, axis=1))) @ _mel_filters().T
    level_NM = 10 * np.log10(np.maximum(power_NM, _LOWEST_POWER))
    level_NM = level_NM - 10 * np.log10(max(power_NM.max(), _LOWEST_POWER))
    return (np.maximum(level_NM, level_NM.max() - _RANGE_DB) + 40) / 40


@functools.cache
def _mel_filters() -> np.ndarray:
    """Triangular filters of equal area, `[120, frequencies]`."""
    frequencies_F = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE_HZ)
    edges = _hertz(np.linspace(0, _mel(SAMPLE_RATE_HZ / 2), _MELS + 2))
    slopes = edges[:, None] - frequencies_F[None]
    widths = np.diff(edges)
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]


# Slaney's scale: linear to 1 kHz, which is 15, then 27 to a factor of 6.4.
_LINEAR_HZ, _KNEE_HZ, _KNEE_MEL, _LOG_STEP = 200 / 3, 1000.0, 15.0, np.log(6.4) / 27


def _mel(hertz: float) -> float:
    return _KNEE_MEL + np.log(hertz / _KNEE_HZ) / _LOG_STEP if hertz >= _KNEE_HZ else hertz / _LINEAR_HZ


def _hertz(mel: np.ndarray) -> np.ndarray:
    above = _KNEE_HZ * np.exp(_LOG_STEP * (mel - _KNEE_MEL))
    return np.where(mel >= _KNEE_MEL, above, mel * _LINEAR_HZ)


def _long_enough(enhanced: np.ndarray) -> np.ndarray:
    """The clip, repeated until it fills a window."""
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
    return wav


def _windows(wav: np.ndarray) -> list[np.ndarray]:
    """One window per second, without those that rounding makes one sample short, as in the package."""
    count = int(len(wav) // SAMPLE_RATE_HZ - _WINDOW_SECONDS) + 1
    windows = [
        wav[second * SAMPLE_RATE_HZ : int((second + _WINDOW_SECONDS) * SAMPLE_RATE_HZ)]
        for second in range(count)
    ]
    return [window for window in windows if len(window) >= _WINDOW_SAMPLES]


@functools.cache
def _session(model: str) -> Any:
    """A network on one thread; parallelism is over clips, in worker processes."""
    runtime, package = import_package("onnxruntime"), import_package("speechmos")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with as_file(files(package) / model) as path:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
