"""Rendering a plan row into a pair of noisy and clean speech.

Rendering is a pure function of the row and the files that it names, so it gives the same samples on any
machine, offline into shards or online in a loader.
"""

from __future__ import annotations

import math

import numpy as np

from rwsa.audio import resample, round_to_int16
from rwsa.errors import InputError
from rwsa.mixing.levels import level_gain, peak
from rwsa.mixing.mixture import Mixture, describe
from rwsa.mixing.noises import at_level, long_term_power, speech_shaped
from rwsa.mixing.plan_audio import NoiseSources, Sources, cut_or_pad, load_sources
from rwsa.mixing.plans import MixPlan, Noise, SourceRange
from rwsa.mixing.reverberation import reverberate
from rwsa.mixing.snr import level_source, noise_gain, source_rms
from rwsa.mixing.transforms import apply_transforms
from rwsa.shards import Example


def render_mix(plan: MixPlan, sources: Sources) -> Mixture:
    """Mix the speech and noise of a plan row.

    The speech is transformed and reverberated; the noises are reverberated, added, transformed and scaled
    to the SNR (over the whole example); speech and noise are scaled to the level, their sum is transformed,
    and noisy and clean are scaled down if either peaks above `max_peak`. Finally both are rounded to the
    16 bits of a file.

    Args:
        plan: the row.
        sources: its audio, from `load_sources`.

    Raises:
        InputError: speech or noise is silent, or a transform fails.
    """
    noise_seed, mixture_seed, speech_seed = (
        np.random.SeedSequence(plan.transform_seed).generate_state(3).tolist()
    )
    rate = plan.mix_rate_hz
    dry, speech_drawn = apply_transforms(plan.speech_transforms, sources.speech, rate, speech_seed)
    speech, target = _speech_and_target(plan, dry, sources.room)
    noise, noise_gains_db = _noise_sum(plan, sources.noises, dry)
    noise, noise_drawn = apply_transforms(plan.noise_transforms, noise, rate, noise_seed)
    snr_gain, snr_db = noise_gain(plan, speech, noise)
    noisy = speech + np.float32(snr_gain) * noise
    gain = level_gain(noisy, plan.level_dbfs)
    noisy, mixture_drawn = apply_transforms(
        plan.mixture_transforms, np.float32(gain) * noisy, rate, mixture_seed
    )
    noisy, clean = (_at_output_rate(wav, plan) for wav in (noisy, np.float32(gain) * target))
    peak_gain = min(1.0, plan.max_peak / max(peak(noisy), peak(clean)))
    return Mixture(
        clean=round_to_int16(np.float32(peak_gain) * clean),
        noisy=round_to_int16(np.float32(peak_gain) * noisy),
        sample_rate_hz=plan.sample_rate_hz,
        snr_db=snr_db,
        noise_gains_db=noise_gains_db,
        noise_gain_db=20 * math.log10(snr_gain),
        level_gain_db=20 * math.log10(gain),
        peak_gain_db=20 * math.log10(peak_gain),
        degradations=tuple(
            {"of": of, **drawn}
            for of, applied in (("speech", speech_drawn), ("noise", noise_drawn), ("mixture", mixture_drawn))
            for drawn in applied
        ),
    )


def _speech_and_target(
    plan: MixPlan, dry: np.ndarray, rir: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The speech in the mixture and the clean target."""
    if plan.room is None or rir is None:
        return dry, dry
    speech = _reverberated(plan.room, dry, rir, plan.mix_rate_hz)
    if plan.target == "early":
        return speech, _reverberated(plan.room, dry, rir, plan.mix_rate_hz, early_ms=plan.early_ms)
    return speech, dry if plan.target == "dry" else speech


def _reverberated(
    room: SourceRange, dry: np.ndarray, rir: np.ndarray, rate: int, *, early_ms: float | None = None
) -> np.ndarray:
    try:
        return reverberate(dry, rir, rate, early_ms=early_ms)
    except InputError as error:
        raise InputError(f"{room.path}: {error}") from error


def _noise_sum(
    plan: MixPlan, sources: tuple[NoiseSources, ...], dry: np.ndarray
) -> tuple[np.ndarray, tuple[float, ...]]:
    """The sum of the noises, and the gain of each in dB; a single noise is not scaled."""
    wavs = [_noise_wav(plan, noise, source, dry) for noise, source in zip(plan.noises, sources, strict=True)]
    if len(wavs) == 1:
        return wavs[0], (0.0,)
    levels = [
        source_rms(wav, level_source(plan, noise)) for wav, noise in zip(wavs, plan.noises, strict=True)
    ]
    gains_db = [
        noise.gain_db - 20 * math.log10(level) for noise, level in zip(plan.noises, levels, strict=True)
    ]
    total = sum(wav * np.float32(10 ** (gain / 20)) for wav, gain in zip(wavs, gains_db, strict=True))
    return np.asarray(total, dtype=np.float32), tuple(gains_db)


def _noise_wav(plan: MixPlan, noise: Noise, sources: NoiseSources, dry: np.ndarray) -> np.ndarray:
    if noise.kind == "recording":
        (wav,) = sources.layers
    elif noise.kind == "babble":
        talkers = zip(sources.layers, noise.layers, strict=True)
        total = sum(at_level(wav, layer.gain_db) for wav, layer in talkers)
        wav = np.asarray(total, dtype=np.float32)
    else:
        rng = np.random.default_rng(noise.seed)
        try:
            power_F = long_term_power([dry])
        except InputError as error:
            raise InputError(f"{plan.speech.path}: {error}") from error
        wav = speech_shaped(rng, dry.size, plan.mix_rate_hz, power_F, steady=True)
    if noise.room is None or sources.room is None:
        return wav
    return _reverberated(noise.room, wav, sources.room, plan.mix_rate_hz)


def _at_output_rate(wav: np.ndarray, plan: MixPlan) -> np.ndarray:
    if plan.mix_rate_hz == plan.sample_rate_hz:
        return wav
    return cut_or_pad(resample(wav, plan.mix_rate_hz, plan.sample_rate_hz), plan.samples)


def render_example(plan: MixPlan) -> Example:
    """Read, mix and describe one plan row, giving the example that a shard stores or a loader yields.

    Raises:
        InputError: see `load_sources` and `render_mix`.
    """
    sources = load_sources(plan)
    mixture = render_mix(plan, sources)
    return Example(
        example_id=plan.example_id,
        noisy=mixture.noisy,
        clean=mixture.clean,
        sample_rate_hz=mixture.sample_rate_hz,
        meta=describe(plan, sources, mixture),
    )
