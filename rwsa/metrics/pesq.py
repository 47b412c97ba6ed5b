"""Wide-band and narrow-band PESQ by the package `pesq`, with typed failures, protected against crashes."""

from __future__ import annotations

import numpy as np

from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.metrics.packages import import_package
from rwsa.metrics.pesq_process import Mode, PesqProcess
from rwsa.metrics.values import UndefinedError

# The package writes past its tables of 50 utterances without a check, which may end in a segmentation fault.
# An utterance with the pause after it lasts at least 0.4 s, so up to 19 s are safe.
_PESQ_SAFE_SAMPLES = 19 * SAMPLE_RATE_HZ


def pesq(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Wide-band PESQ as MOS-LQO, 1.0 to 4.64.

    0.999 + 4 / (1 + exp(3.8224 − 1.3669·P)), with P the raw score: 4.5 minus the disturbances between the two
    loudness spectra, aligned in time and level. The package aligns and filters both clips together, so no
    intermediate value of the clean clip can be cached.

    Clips above 19 s are scored in a child process: with more than 50 utterances (speech of 0.2 s and
    more between pauses of 0.2 s and more) the package overruns its tables. It then crashes, which is
    reported as undefined, or, with only a few too many, returns a score based on overwritten time alignment.
    ITU-T P.862 is meant for clips of 8 to 30 s.

    Args:
        clean, enhanced: float64 `[samples]` at 16 kHz; the common level does not matter.

    Raises:
        UndefinedError: less than 0.25 s; no utterance found; `enhanced` is silent; the package crashed.
        InputError: the package is not installed.

    Source: ITU-T P.862.2; package pesq.
    """
    return _pesq(clean, enhanced, "wb")


def pesq_nb(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Narrow-band PESQ as MOS-LQO, 1.02 to 4.55: as over a telephone, 300 to 3100 Hz.

    0.999 + 4 / (1 + exp(4.6607 − 1.4945·P)), with P the raw score of both clips through the telephone filter.
    Papers before 2010 often report it, some without the mapping.

    Args, raises: as of `pesq`.

    Source: ITU-T P.862 and P.862.1; package pesq.
    """
    return _pesq(clean, enhanced, "nb")


def _pesq(clean: np.ndarray, enhanced: np.ndarray, mode: Mode) -> float:
    package = import_package("pesq")
    if not enhanced.any():
        raise UndefinedError("enhanced is silent")
    if len(clean) > _PESQ_SAFE_SAMPLES:
        with PesqProcess(mode) as process:
            return process.score(clean, enhanced)
    try:
        return float(package.pesq(SAMPLE_RATE_HZ, clean, enhanced, mode))
    except package.PesqError as error:
        raise UndefinedError(f"PESQ: {error.args[0].decode()}") from None
