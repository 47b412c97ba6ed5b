"""Mixing speech and noise: rendering one plan row into a pair of noisy and clean.

Planning (`rwsa.plans`) and rendering are apart: rendering is a pure function of the row and the two
files that it names, so any number of machines, offline into shards or online in a loader, get the
same samples from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rwsa.audio import read_audio, resample, rms, round_to_int16
from rwsa.errors import InputError
from rwsa.plans import MixPlan, SourceRange, draw_mix, plan_split
from rwsa.recipes import Recipe, read_recipe
from rwsa.shards import Example
from rwsa.transforms import apply_transforms

# All that a caller needs to mix, from one place.
__all__ = [
    "SILENCE_DBFS",
    "MixPlan",
    "Mixture",
    "Recipe",
    "SourceRange",
    "Sources",
    "describe",
    "draw_mix",
    "load_sources",
    "plan_split",
    "read_recipe",
    "render_example",
    "render_mix",
]

# A stretch below this RMS is the padding or digital silence of its recording: raised to a
# speech-like level it would be 16-bit rounding noise.
SILENCE_DBFS = -70.0


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The audio behind a plan row: float32 `[samples]` at the plan's rate.

    The offsets are the plan's, unless that stretch was silent (see `load_sources`).
    """

    speech: np.ndarray
    noise: np.ndarray
    speech_offset: int
    noise_offset: int


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A rendered example: float32 `[samples]`, on the 16-bit grid.

    Attributes:
        noise_gain_db: applied to the noise to reach the SNR.
        level_gain_db: then applied to speech and noise to reach the level.
        peak_gain_db: then applied to both to keep the peaks, 0 or below.
        degradations: the transforms that were applied, with the parameters they drew.
    """

    clean: np.ndarray
    noisy: np.ndarray
    sample_rate_hz: int
    snr_db: float
    noise_gain_db: float
    level_gain_db: float
    peak_gain_db: float
    degradations: tuple[Mapping[str, Any], ...]


def load_sources(plan: MixPlan) -> Sources:
    """Read the two stretches that a plan row names, and no more of the files.

    Planning sees headers only. Where the planned stretch turns out silent (below `SILENCE_DBFS`),
    the first stretch that is not, counted in whole lengths from the start of the recording, stands
    in for it; so the outcome still follows from the row and the file alone.

    Raises:
        InputError: naming the file: missing, damaged, changed since it was planned, or silent
            throughout.
    """
    speech, speech_offset = _first_audible(plan.speech)
    noise, noise_offset = _first_audible(plan.noise)
    return Sources(
        speech=_fit(resample(speech, plan.speech.sample_rate_hz, plan.sample_rate_hz), plan.samples),
        noise=_fit(resample(noise, plan.noise.sample_rate_hz, plan.sample_rate_hz), plan.samples),
        speech_offset=speech_offset,
        noise_offset=noise_offset,
    )


def _first_audible(source: SourceRange) -> tuple[np.ndarray, int]:
    last = source.clip_samples - source.samples
    # One that fills or loops its recording holds all of it: there is no other stretch to try.
    others = [*range(0, last, source.samples), last] if last > 0 else []
    for offset in (source.offset, *others):
        wav = _read_range(source, offset)
        if rms(wav) >= 10 ** (SILENCE_DBFS / 20):
            return wav, offset
    raise InputError(f"{source.path}: silent throughout (below {SILENCE_DBFS:g} dBFS); remove the file")


def _read_range(source: SourceRange, offset: int) -> np.ndarray:
    path = Path(source.path)
    if offset + source.samples <= source.clip_samples:
        wav, rate = read_audio(path, start=offset, samples=source.samples)
    else:
        wav, rate = read_audio(path, samples=source.clip_samples)
        wav = np.resize(np.roll(wav, -offset, axis=1).T, (source.samples, len(wav))).T
    if rate != source.sample_rate_hz:
        raise InputError(
            f"{path}: is at {rate} Hz, was at {source.sample_rate_hz} Hz when planned; plan again"
        )
    if source.channel is None and len(wav) != 1:
        raise InputError(f"{path}: has {len(wav)} channels; name the one to use as 'channel' in its card")
    if source.channel is not None and source.channel >= len(wav):
        raise InputError(f"{path}: has {len(wav)} channels, its card asks for number {source.channel} from 0")
    return np.ascontiguousarray(wav[source.channel or 0])


def _fit(wav: np.ndarray, samples: int) -> np.ndarray:
    """Cut or pad with zeros at the end."""
    return np.pad(wav[:samples], (0, max(0, samples - len(wav))))


def render_mix(plan: MixPlan, speech: np.ndarray, noise: np.ndarray) -> Mixture:
    """Mix speech and noise as a plan row says.

    The noise is transformed and scaled to the SNR (RMS over the whole example), both are scaled to
    the level, the sum is transformed, and both are scaled down if either peaks above `max_peak`.
    Last, both are rounded to 16 bits as a file stores them.

    Args:
        plan: the row.
        speech: float32 `[samples]`, as `load_sources` gives it.
        noise: likewise.

    Raises:
        InputError: speech or noise is silent, or a transform fails.
    """
    noise_seed, mixture_seed = np.random.SeedSequence(plan.transform_seed).generate_state(2).tolist()
    rate = plan.sample_rate_hz
    noise, noise_drawn = apply_transforms(plan.noise_transforms, noise, rate, noise_seed)
    noise_gain = _level_of(speech, plan.speech) / _level_of(noise, plan.noise) * 10 ** (-plan.snr_db / 20)
    noisy = speech + np.float32(noise_gain) * noise
    level_gain = 1.0 if plan.level_dbfs is None else 10 ** (plan.level_dbfs / 20) / rms(noisy)
    noisy, mixture_drawn = apply_transforms(
        plan.mixture_transforms, np.float32(level_gain) * noisy, rate, mixture_seed
    )
    clean = np.float32(level_gain) * speech
    peak = max(float(np.abs(noisy).max()), float(np.abs(clean).max()))
    peak_gain = min(1.0, plan.max_peak / peak)
    return Mixture(
        clean=round_to_int16(np.float32(peak_gain) * clean),
        noisy=round_to_int16(np.float32(peak_gain) * noisy),
        sample_rate_hz=rate,
        snr_db=plan.snr_db,
        noise_gain_db=20 * math.log10(noise_gain),
        level_gain_db=20 * math.log10(level_gain),
        peak_gain_db=20 * math.log10(peak_gain),
        degradations=(
            *({"of": "noise", **drawn} for drawn in noise_drawn),
            *({"of": "mixture", **drawn} for drawn in mixture_drawn),
        ),
    )


def _level_of(wav: np.ndarray, source: SourceRange) -> float:
    level = rms(wav)
    if level == 0.0:
        raise InputError(f"{source.path}: silent from sample {source.offset} on; it cannot be set to an SNR")
    return level


def render_example(plan: MixPlan) -> Example:
    """Read, mix and describe one plan row: what a shard stores and an online loader yields.

    Raises:
        InputError: see `load_sources` and `render_mix`.
    """
    sources = load_sources(plan)
    mixture = render_mix(plan, sources.speech, sources.noise)
    return Example(
        example_id=plan.example_id,
        noisy=mixture.noisy,
        clean=mixture.clean,
        sample_rate_hz=mixture.sample_rate_hz,
        meta=describe(plan, sources, mixture),
    )


def describe(plan: MixPlan, sources: Sources, mixture: Mixture) -> dict[str, Any]:
    """What is stored with an example: JSON values, without paths, so that bytes do not depend on them."""
    return {
        "plan_row": plan.plan_row,
        "recipe": plan.recipe,
        "split": plan.split,
        "speech": plan.speech.clip_id,
        "speech_offset": sources.speech_offset,
        "speech_licence": plan.speech.licence,
        "speaker": plan.speaker,
        "noise": plan.noise.clip_id,
        "noise_offset": sources.noise_offset,
        "noise_licence": plan.noise.licence,
        "environment": plan.environment,
        "snr_db": mixture.snr_db,
        "level_dbfs": plan.level_dbfs,
        "noise_gain_db": mixture.noise_gain_db,
        "level_gain_db": mixture.level_gain_db,
        "peak_gain_db": mixture.peak_gain_db,
        "degradations": list(mixture.degradations),
        "transform_seed": plan.transform_seed,
    }
