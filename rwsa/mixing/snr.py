"""The SNR of a mixture: the gain that brings the noise to the planned SNR, by the recipe's measure.

To add a measure: its name in `rwsa.mixing.recipes.SnrMeasure`, its level in `rwsa.mixing.levels`.
"""

from __future__ import annotations

import math

import numpy as np

from rwsa.audio import rms
from rwsa.errors import InputError
from rwsa.mixing.levels import level_db, peak
from rwsa.mixing.plan_rows import MixPlan, Noise, SourceRange


def noise_gain(plan: MixPlan, speech: np.ndarray, noise: np.ndarray) -> tuple[float, float]:
    """The noise's gain, as a factor, and the SNR in dB that it gives.

    The SNR is the planned one, unless the peak rule `raise_snr` raises it.

    Raises:
        InputError: speech or noise is silent, or too quiet to have a level by the measure.
    """
    noise_source = level_source(plan, plan.noises[0])
    if plan.snr_measure == "rms":
        ratio = source_rms(speech, plan.speech) / source_rms(noise, noise_source)
    else:
        noise_measure = "rms" if plan.snr_measure == "active" else plan.snr_measure
        speech_db = _level_db(speech, plan.speech, plan.mix_rate_hz, plan.snr_measure)
        ratio = 10 ** ((speech_db - _level_db(noise, noise_source, plan.mix_rate_hz, noise_measure)) / 20)
    snr_db = plan.snr_db
    # If the speech alone peaks above the limit, no SNR helps: the last step scales both.
    if plan.peak == "raise_snr" and peak(speech) < plan.max_peak:
        while peak(speech + np.float32(ratio * 10 ** (-snr_db / 20)) * noise) >= plan.max_peak:
            snr_db += 1.0
    return ratio * 10 ** (-snr_db / 20), snr_db


def source_rms(wav: np.ndarray, source: SourceRange) -> float:
    """RMS of `wav`, which was made from `source`.

    Raises:
        InputError: it is silent.
    """
    level = rms(wav)
    if level == 0.0:
        raise InputError(f"{source.path}: silent from sample {source.offset} on; it has no SNR")
    return level


def level_source(plan: MixPlan, noise: Noise) -> SourceRange:
    """The recording that errors about the level of `noise` name; the speech for generated noise."""
    return noise.layers[0].parts[0] if noise.layers else plan.speech


def _level_db(wav: np.ndarray, source: SourceRange, rate: int, measure: str) -> float:
    try:
        level = level_db(wav, rate, measure)
    except InputError as error:
        raise InputError(f"{source.path}: {error}") from error
    if level == -math.inf:
        raise InputError(
            f"{source.path}: too quiet from sample {source.offset} on to have a level by {measure}; "
            "remove the file, or use snr_measure: rms"
        )
    return level
