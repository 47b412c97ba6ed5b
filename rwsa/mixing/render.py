"""Rendering one plan row into a pair of noisy and clean.

Planning (`rwsa.mixing.plans`) and rendering are apart: rendering is a pure function of the row and the
files that it names, so any number of machines, offline into shards or online in a loader, get the
same samples from it.
"""

from __future__ import annotations

import math

import numpy as np

from rwsa.audio import resample, rms, round_to_int16
from rwsa.errors import InputError
from rwsa.mixing.levels import level_db
from rwsa.mixing.mixture import Mixture, describe
from rwsa.mixing.noises import at_level, long_term_power, speech_shaped
from rwsa.mixing.plan_audio import NoiseSources, Sources, fit, load_sources
from rwsa.mixing.plans import MixPlan, Noise, SourceRange
from rwsa.mixing.reverberation import reverberate
from rwsa.mixing.transforms import apply_transforms
from rwsa.shards import Example


def render_mix(plan: MixPlan, sources: Sources) -> Mixture:
    """Mix speech and noise as a plan row says.

    The speech is transformed and put into its room; the noises are put into theirs, added, transformed
    and scaled to the SNR (over the whole example); speech and noise are scaled to the level, the sum is
    transformed, and noisy and clean are scaled down if either peaks above `max_peak`. Last, both are
    rounded to 16 bits as a file stores them.

    Args:
        plan: the row.
        sources: as `load_sources` gives them.

    Raises:
        InputError: speech or noise is silent, or a transform fails.
    """
    noise_seed, mixture_seed, speech_seed = (
        np.random.SeedSequence(plan.transform_seed).generate_state(3).tolist()
    )
    rate = plan.mix_rate_hz
    dry, speech_drawn = apply_transforms(plan.speech_transforms, sources.speech, rate, speech_seed)
    speech, target = _in_room(plan, dry, sources.room)
    noise, noise_gains_db = _noise_sum(plan, sources.noises, dry)
    noise, noise_drawn = apply_transforms(plan.noise_transforms, noise, rate, noise_seed)
    noise_gain, snr_db = _noise_gain(plan, speech, noise)
    noisy = speech + np.float32(noise_gain) * noise
    level_gain = 1.0 if plan.level_dbfs is None else 10 ** (plan.level_dbfs / 20) / rms(noisy)
    noisy, mixture_drawn = apply_transforms(
        plan.mixture_transforms, np.float32(level_gain) * noisy, rate, mixture_seed
    )
    noisy, clean = (_at_rate(wav, plan) for wav in (noisy, np.float32(level_gain) * target))
    peak_gain = min(1.0, plan.max_peak / max(_peak(noisy), _peak(clean)))
    return Mixture(
        clean=round_to_int16(np.float32(peak_gain) * clean),
        noisy=round_to_int16(np.float32(peak_gain) * noisy),
        sample_rate_hz=plan.sample_rate_hz,
        snr_db=snr_db,
        noise_gains_db=noise_gains_db,
        noise_gain_db=20 * math.log10(noise_gain),
        level_gain_db=20 * math.log10(level_gain),
        peak_gain_db=20 * math.log10(peak_gain),
        degradations=tuple(
            {"of": of, **drawn}
            for of, several in (("speech", speech_drawn), ("noise", noise_drawn), ("mixture", mixture_drawn))
            for drawn in several
        ),
    )


def _in_room(plan: MixPlan, dry: np.ndarray, rir: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The speech as it is heard in the mixture, and as the target has it."""
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
    """The noises added up, and the gain of each in dB; one alone is left as it is."""
    wavs = [_noise_wav(plan, noise, source, dry) for noise, source in zip(plan.noises, sources, strict=True)]
    if len(wavs) == 1:
        return wavs[0], (0.0,)
    levels = [_level_of(wav, _first_part(plan, noise)) for wav, noise in zip(wavs, plan.noises, strict=True)]
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


def _noise_gain(plan: MixPlan, speech: np.ndarray, noise: np.ndarray) -> tuple[float, float]:
    """The noise's gain, as a factor, and the SNR in dB that it gives."""
    heard = _first_part(plan, plan.noises[0])
    if plan.snr_measure == "rms":
        ratio = _level_of(speech, plan.speech) / _level_of(noise, heard)
    else:
        of_noise = "rms" if plan.snr_measure == "active" else plan.snr_measure
        speech_db = _level_db(speech, plan.speech, plan.mix_rate_hz, plan.snr_measure)
        ratio = 10 ** ((speech_db - _level_db(noise, heard, plan.mix_rate_hz, of_noise)) / 20)
    snr_db = plan.snr_db
    # Where the speech alone peaks above, no SNR helps: the last step scales both.
    if plan.peak == "raise_snr" and _peak(speech) < plan.max_peak:
        while _peak(speech + np.float32(ratio * 10 ** (-snr_db / 20)) * noise) >= plan.max_peak:
            snr_db += 1.0
    return ratio * 10 ** (-snr_db / 20), snr_db


def _level_of(wav: np.ndarray, source: SourceRange) -> float:
    level = rms(wav)
    if level == 0.0:
        raise InputError(f"{source.path}: silent from sample {source.offset} on; it cannot be set to an SNR")
    return level


def _level_db(wav: np.ndarray, source: SourceRange, rate: int, measure: str) -> float:
    try:
        level = level_db(wav, rate, measure)
    except InputError as error:
        raise InputError(f"{source.path}: {error}") from error
    if level == -math.inf:
        raise InputError(
            f"{source.path}: too quiet from sample {source.offset} on to have a level by {measure}; "
            "remove the file, or take snr_measure: rms"
        )
    return level


def _first_part(plan: MixPlan, noise: Noise) -> SourceRange:
    """The recording that an error about this noise names; generated noise is made of the speech."""
    return noise.layers[0].parts[0] if noise.layers else plan.speech


def _at_rate(wav: np.ndarray, plan: MixPlan) -> np.ndarray:
    if plan.mix_rate_hz == plan.sample_rate_hz:
        return wav
    return fit(resample(wav, plan.mix_rate_hz, plan.sample_rate_hz), plan.samples)


def _peak(wav: np.ndarray) -> float:
    return max(float(wav.max()), -float(wav.min()))


def render_example(plan: MixPlan) -> Example:
    """Read, mix and describe one plan row: what a shard stores and an online loader yields.

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
