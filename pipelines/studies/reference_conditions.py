"""Degradations of a clean reference: a noise floor or a room, at several levels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from rwsa.audio import rms
from rwsa.errors import InputError
from rwsa.mixing.noises import coloured
from rwsa.mixing.reverberation import reverberate

NOISE_COLOUR = "pink"


@dataclass(frozen=True, kw_only=True)
class ReferenceCondition:
    """One degradation of the reference; none if all are None.

    Attributes:
        snr_db: RMS of the reference over that of pink noise added to it.
        drr_db: energy of the direct sound over that of all reverberation.
        rt60_seconds: time in which reverberation falls by 60 dB; goes with `drr_db`.
    """

    snr_db: float | None = None
    drr_db: float | None = None
    rt60_seconds: float | None = None

    @property
    def name(self) -> str:
        """`unchanged`, `pink noise added, SNR 30 dB` or `room, DRR 5 dB, RT60 0.5 s`."""
        if self.snr_db is not None:
            return f"pink noise added, SNR {self.snr_db:g} dB"
        if self.drr_db is not None:
            return f"room, DRR {self.drr_db:g} dB, RT60 {self.rt60_seconds:g} s"
        return "unchanged"


@dataclass(frozen=True, kw_only=True)
class ConditionAxis:
    """Conditions in which one quantity varies, in order of degradation.

    Attributes:
        quantity: label with unit and fixed values.
        ticks: the quantity's value in each condition.
    """

    quantity: str
    conditions: tuple[ReferenceCondition, ...]
    ticks: tuple[str, ...]


UNCHANGED = ReferenceCondition()
_SNRS_DB = (40.0, 30.0, 20.0, 10.0)
_DRRS_DB = (15.0, 10.0, 5.0, 0.0)
_RT60S_SECONDS = (0.25, 0.5, 1.0)
_HELD_RT60_SECONDS, _HELD_DRR_DB = 0.5, 5.0
CONDITION_AXES = (
    ConditionAxis(
        quantity="SNR of the reference, pink noise added (dB)",
        conditions=(UNCHANGED, *(ReferenceCondition(snr_db=snr_db) for snr_db in _SNRS_DB)),
        ticks=("unchanged", *(f"{snr_db:g}" for snr_db in _SNRS_DB)),
    ),
    ConditionAxis(
        quantity=f"DRR of the reference (dB), RT60 {_HELD_RT60_SECONDS:g} s",
        conditions=(
            UNCHANGED,
            *(ReferenceCondition(drr_db=drr_db, rt60_seconds=_HELD_RT60_SECONDS) for drr_db in _DRRS_DB),
        ),
        ticks=("unchanged", *(f"{drr_db:g}" for drr_db in _DRRS_DB)),
    ),
    ConditionAxis(
        quantity=f"RT60 of the reference (s), DRR {_HELD_DRR_DB:g} dB",
        conditions=(
            UNCHANGED,
            *(ReferenceCondition(drr_db=_HELD_DRR_DB, rt60_seconds=seconds) for seconds in _RT60S_SECONDS),
        ),
        ticks=("unchanged", *(f"{seconds:g}" for seconds in _RT60S_SECONDS)),
    ),
)
CONDITIONS = tuple(dict.fromkeys(condition for axis in CONDITION_AXES for condition in axis.conditions))


def degraded(
    clean: np.ndarray, condition: ReferenceCondition, sample_rate_hz: int, *, clip_id: str, seed: int
) -> np.ndarray:
    """A reference in a condition: float32 `[samples]`, aligned with `clean` and at its speech level.

    A clip has the same noise and room at every level, so that conditions differ only in the level.

    Args:
        clean: float32 `[samples]`.
        condition: the degradation.
        sample_rate_hz: of `clean`.
        clip_id: selects noise and room, together with `seed`.

    Raises:
        InputError: `clean` is silent.
    """
    if not clean.any():
        raise InputError(f"{clip_id}: the clean clip is silent; leave it out")
    key = int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:8], "little")
    rng = np.random.default_rng([seed, key])
    if condition.snr_db is not None:
        noise = coloured(rng, len(clean), sample_rate_hz, NOISE_COLOUR)
        gain = rms(clean) / rms(noise) * 10 ** (-condition.snr_db / 20)
        return (clean + gain * noise).astype(np.float32)
    if condition.drr_db is not None and condition.rt60_seconds is not None:
        rir = decaying_rir(rng, sample_rate_hz, condition.drr_db, condition.rt60_seconds)
        return reverberate(clean, rir, sample_rate_hz)
    return clean


def decaying_rir(
    rng: np.random.Generator, sample_rate_hz: int, drr_db: float, rt60_seconds: float
) -> np.ndarray:
    """Room impulse response: the direct sound, then exponentially decaying white noise; float64 `[taps]`.

    Source: Polack's model of late reverberation (1988), without early reflections.
    """
    seconds = np.arange(1, round(rt60_seconds * sample_rate_hz)) / sample_rate_hz
    tail = rng.standard_normal(len(seconds)) * 10 ** (-3 * seconds / rt60_seconds)
    tail *= 10 ** (-drr_db / 20) / np.sqrt(np.sum(np.square(tail)))
    return np.concatenate([[1.0], tail])
