"""PESQ, from the package `pesq`, made to fail aloud; and how every metric's package is found."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np

from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.errors import InputError
from rwsa.metrics.pesq_process import PesqProcess
from rwsa.metrics.values import UndefinedError

_REMEDIES = {
    "pesq": "pip install 'rwsa[metrics]'; pesq is built from source and needs a C compiler "
    "(Debian: apt-get install build-essential python3-dev)",
    "pystoi": "pip install 'rwsa[metrics]'",
    "speechmos": "pip install 'rwsa[dnsmos]'",
    "onnxruntime": "pip install 'rwsa[dnsmos]'",
}
# The package keeps 50 utterances in fixed tables and writes past their end without a check: it then dies
# of a segmentation fault. An utterance with the pause after it lasts at least 0.4 s, so this is safe:
_PESQ_SAFE_SAMPLES = 19 * SAMPLE_RATE_HZ


def pesq(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Wide-band PESQ as MOS-LQO, 1.0 to 4.64.

    0.999 + 4 / (1 + exp(3.8224 − 1.3669·P)), with P the raw score: 4.5 less what the disturbances of the
    two loudness spectra, aligned in time and level, take off. The package aligns and filters both clips
    together, so that nothing of the clean one's can be kept for the next estimate.

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


def load(module: str) -> ModuleType:
    """Import a metric's package, or a module of it.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise InputError(f"the metrics need the package {package} ({error}): {_REMEDIES[package]}") from error
