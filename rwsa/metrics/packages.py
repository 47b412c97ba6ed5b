"""Metrics that come from packages: PESQ (`pesq`) and STOI, ESTOI (`pystoi`), made to fail aloud."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

import numpy as np

from rwsa.errors import InputError
from rwsa.global_random import seeded_globals
from rwsa.metrics.pesq_process import PesqProcess
from rwsa.metrics.values import SAMPLE_RATE_HZ, UndefinedError

_REMEDY = (
    "pip install 'rwsa[metrics]'; pesq is built from source and needs a C compiler "
    "(Debian: apt-get install build-essential python3-dev)"
)
# The package keeps 50 utterances in fixed tables and writes past their end without a check: it then dies
# of a segmentation fault. An utterance with the pause after it lasts at least 0.4 s, so this is safe:
_PESQ_SAFE_SAMPLES = 19 * SAMPLE_RATE_HZ
# 31 frames of 256 samples, 128 apart, at STOI's own 10 kHz: removing silent frames costs the last one.
_STOI_LEAST_SECONDS = 0.41


def pesq(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Wide-band PESQ as MOS-LQO, 1.0 to 4.64.

    Clips above 19 s are scored in a child process: with more than 50 utterances (speech of 0.2 s and
    more between pauses of 0.2 s and more) the package overruns its tables. It then crashes, which is
    reported here as undefined, or, when it is only a few too many, gives a score that rests on
    overwritten time alignment. ITU-T P.862 is meant for clips of 8 to 30 s.

    Args:
        clean, enhanced: float64 `[samples]` at 16 kHz; the common level does not matter.

    Raises:
        UndefinedError: less than 0.25 s; no utterance found; `enhanced` is silent; the package crashed.
        InputError: the package is not installed.

    Source: ITU-T P.862.2; package pesq.
    """
    package = load("pesq")
    if not enhanced.any():
        raise UndefinedError("enhanced is silent")
    if len(clean) > _PESQ_SAFE_SAMPLES:
        with PesqProcess() as process:
            return process.score(clean, enhanced)
    try:
        return float(package.pesq(SAMPLE_RATE_HZ, clean, enhanced, "wb"))
    except package.PesqError as error:
        raise UndefinedError(f"PESQ: {error.args[0].decode()}") from None


def stoi(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Short-time objective intelligibility, −1 to 1: mean correlation of clipped band envelopes.

    Args:
        clean, enhanced: float64 `[samples]` at 16 kHz.

    Raises:
        UndefinedError: less than 0.41 s, whole or without its silent frames; `enhanced` is silent.
        InputError: the package is not installed.

    Source: Taal et al., IEEE TASLP 19(7), 2011; package pystoi.
    """
    return _intelligibility(clean, enhanced, extended=False)


def estoi(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Extended STOI, −1 to 1: correlation of spectrograms normalised over time and frequency.

    Args:
        clean, enhanced: float64 `[samples]` at 16 kHz.

    Raises:
        UndefinedError: see `stoi`.
        InputError: the package is not installed.

    Source: Jensen and Taal, IEEE/ACM TASLP 24(11), 2016; package pystoi, `extended=True`.
    """
    return _intelligibility(clean, enhanced, extended=True)


def _intelligibility(clean: np.ndarray, enhanced: np.ndarray, *, extended: bool) -> float:
    package = load("pystoi")
    if not enhanced.any():
        raise UndefinedError("enhanced is silent")
    if len(clean) < _STOI_LEAST_SECONDS * SAMPLE_RATE_HZ:
        raise UndefinedError(f"{len(clean)} samples are too few: STOI needs {_STOI_LEAST_SECONDS} s")
    # pystoi dithers with the global generator: left alone, ESTOI would vary where a band is silent, and
    # scoring a clip would change what the caller draws next.
    with seeded_globals(0), warnings.catch_warnings():
        # pystoi warns and returns 1e-5; a number that looks like a score must not pass for one.
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(package.stoi(clean, enhanced, SAMPLE_RATE_HZ, extended=extended))
        except RuntimeWarning as warning:
            raise UndefinedError(f"STOI: {str(warning).partition(' Returning')[0]}") from None


def load(package: str) -> ModuleType:
    """Import a metric's package.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(f"the metrics need the package {package} ({error}): {_REMEDY}") from error
