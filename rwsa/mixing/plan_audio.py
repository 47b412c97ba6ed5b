"""Reading the audio of a plan row: only the stretches of the recordings that it uses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwsa.audio import read_audio, resample, rms
from rwsa.errors import InputError
from rwsa.mixing.plan_rows import MixPlan, Noise, SourceRange
from rwsa.names import local_path

# A stretch below this RMS is padding or digital silence: raised to the level of speech it would be 16-bit
# rounding noise.
SILENCE_DBFS = -70.0
# Power margin above which single precision suffices to call a stretch audible; others are measured exactly.
_SURELY_LOUD = 4.0


@dataclass(frozen=True, kw_only=True)
class NoiseSources:
    """The audio of one noise: float32 `[samples]` per layer, and the impulse response of its room."""

    layers: tuple[np.ndarray, ...]
    room: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The audio of a plan row: float32 `[samples]` at the plan's mixing rate.

    Attributes:
        offsets: the offset at which each stretch was read, in the order of `MixPlan.sources`: the planned
            one, unless that stretch was silent (see `load_sources`).
    """

    speech: np.ndarray
    room: np.ndarray | None
    noises: tuple[NoiseSources, ...]
    offsets: tuple[int, ...]


def load_sources(plan: MixPlan) -> Sources:
    """Read the stretches of a plan row.

    Planning sees only headers. If a planned stretch is silent (below `SILENCE_DBFS`), it is replaced by the
    first audible stretch, counted in full lengths from the start of the recording; so the result still
    depends only on the row and the file. Of several concatenated recordings some may be silent.

    Raises:
        InputError: a file is missing, damaged, changed since planning, or silent throughout.
    """
    rate, offsets = plan.mix_rate_hz, list[int]()
    samples = mix_samples(plan)
    speech = _concatenated((plan.speech, *plan.more_speech), rate, samples, offsets)
    room = _impulse_response(plan.room, rate, offsets)
    noises = tuple(_noise_sources(noise, rate, samples, offsets) for noise in plan.noises)
    return Sources(speech=speech, room=room, noises=noises, offsets=tuple(offsets))


def mix_samples(plan: MixPlan) -> int:
    """The length of an example at its mixing rate; resampling gives at least `plan.samples`."""
    return -(-plan.samples * plan.mix_rate_hz // plan.sample_rate_hz)


def _noise_sources(noise: Noise, rate: int, samples: int, offsets: list[int]) -> NoiseSources:
    layers = tuple(_concatenated(layer.parts, rate, samples, offsets) for layer in noise.layers)
    return NoiseSources(layers=layers, room=_impulse_response(noise.room, rate, offsets))


def _concatenated(parts: tuple[SourceRange, ...], rate: int, samples: int, offsets: list[int]) -> np.ndarray:
    """The concatenated parts, cut or padded to `samples`; appends their offsets to `offsets`."""
    if len(parts) == 1:
        wav, offset = _first_audible(parts[0])
        offsets.append(offset)
        return cut_or_pad(resample(wav, parts[0].sample_rate_hz, rate), samples)
    offsets += [part.offset for part in parts]
    wavs = [resample(_read_range(part, part.offset), part.sample_rate_hz, rate) for part in parts]
    wav = cut_or_pad(np.concatenate(wavs), samples)
    if not _is_audible(wav):
        raise InputError(
            f"{parts[0].path}: silent (below {SILENCE_DBFS:g} dBFS), as are the next {len(parts) - 1} parts; "
            "remove the silent files"
        )
    return wav


def _impulse_response(source: SourceRange | None, rate: int, offsets: list[int]) -> np.ndarray | None:
    if source is None:
        return None
    offsets.append(source.offset)
    return resample(_read_range(source, source.offset), source.sample_rate_hz, rate)


def _first_audible(source: SourceRange) -> tuple[np.ndarray, int]:
    last = source.clip_samples - source.samples
    # A stretch that is the complete recording or loops it has no alternative.
    others = [*range(0, last, source.samples), last] if last > 0 else []
    for offset in (source.offset, *others):
        wav = _read_range(source, offset)
        if _is_audible(wav):
            return wav, offset
    raise InputError(f"{source.path}: silent throughout (below {SILENCE_DBFS:g} dBFS); remove the file")


def _is_audible(wav: np.ndarray) -> bool:
    power = 10 ** (SILENCE_DBFS / 10)
    return float(np.dot(wav, wav)) > _SURELY_LOUD * power * wav.size or rms(wav) >= 10 ** (SILENCE_DBFS / 20)


def _read_range(source: SourceRange, offset: int) -> np.ndarray:
    path = local_path(source.path)
    if offset + source.samples <= source.clip_samples:
        wav, rate = read_audio(path, start=offset, samples=source.samples)
    else:
        wav, rate = read_audio(path, samples=source.clip_samples)
        wav = np.resize(np.roll(wav, -offset, axis=1).T, (source.samples, len(wav))).T
    if rate != source.sample_rate_hz:
        raise InputError(
            f"{path}: is at {rate} Hz, but was at {source.sample_rate_hz} Hz when planned; plan again"
        )
    if source.channel is None and len(wav) != 1:
        raise InputError(f"{path}: has {len(wav)} channels; set 'channel' in its card")
    if source.channel is not None and source.channel >= len(wav):
        raise InputError(
            f"{path}: has {len(wav)} channels, but its card's channel is {source.channel} (counted from 0);"
            " correct 'channel' in the card"
        )
    return np.ascontiguousarray(wav[source.channel or 0])


def cut_or_pad(wav: np.ndarray, samples: int) -> np.ndarray:
    """Cut the end or append zeros, to a length of `samples`."""
    return wav[:samples] if len(wav) >= samples else np.pad(wav, (0, samples - len(wav)))
