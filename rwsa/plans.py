"""Plans of mixtures: one complete, serialisable row per example, drawn without reading audio.

A plan is a pure function of (manifest, recipe, split). Whoever renders a row, wherever and whenever,
needs nothing but the row and the two files that it names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from rwsa.cards import SPLITS, Split
from rwsa.errors import InputError
from rwsa.manifest import Clip, Manifest
from rwsa.recipes import Recipe, check_recipe
from rwsa.transforms import Transform

_SPEECH_TURN, _NOISE_TURN = 1, 2


@dataclass(frozen=True, kw_only=True)
class SourceRange:
    """A stretch of a recording: `samples` from `offset` on, counted at the file's own rate.

    `offset + samples` beyond `clip_samples` means that the recording is looped (noise only). In
    `channel`, None stands for a mono file.
    """

    clip_id: str
    path: str
    channel: int | None
    sample_rate_hz: int
    clip_samples: int
    offset: int
    samples: int
    licence: str


@dataclass(frozen=True, kw_only=True)
class MixPlan:
    """Everything that decides one example; plain values, so that it can be a row of a table.

    Attributes:
        plan_row: number of the example within its split.
        samples: length of the example, at `sample_rate_hz`.
        speaker, environment: as the manifest names them, where it does.
        level_dbfs: RMS of the mixture; None leaves the speech at its recorded level.
        transform_seed: for all that the transforms draw.

    The rest is as in `Recipe`.
    """

    plan_row: int
    example_id: str
    recipe: str
    split: str
    sample_rate_hz: int
    samples: int
    speech: SourceRange
    noise: SourceRange
    speaker: str | None
    environment: str | None
    snr_db: float
    level_dbfs: float | None
    max_peak: float
    noise_transforms: tuple[Transform, ...]
    mixture_transforms: tuple[Transform, ...]
    transform_seed: int


class SplitPlan(Sequence[MixPlan]):
    """All examples of a split, drawn when asked for: a million rows take no memory until then."""

    def __init__(self, recipe: Recipe, split: Split, speech: Sequence[Clip], noise: Sequence[Clip]) -> None:
        self.recipe, self.split = recipe, split
        self._speech, self._noise = speech, noise
        self._number, count = SPLITS.index(split), recipe.examples.get(split, 0)
        key = [recipe.seed, self._number, 0]
        self._speech_turns = _turns(count, len(speech), [*key, _SPEECH_TURN])
        self._noise_turns = _turns(count, len(noise), [*key, _NOISE_TURN])

    def __len__(self) -> int:
        return len(self._speech_turns)

    @overload
    def __getitem__(self, row: int) -> MixPlan: ...
    @overload
    def __getitem__(self, row: slice) -> list[MixPlan]: ...
    def __getitem__(self, row: int | slice) -> MixPlan | list[MixPlan]:
        rows = range(len(self))[row]
        return self._draw(rows) if isinstance(rows, int) else [self._draw(one) for one in rows]

    def _draw(self, row: int) -> MixPlan:
        return draw_mix(
            np.random.default_rng(np.random.SeedSequence([self.recipe.seed, self._number, row])),
            self.recipe,
            self._speech[self._speech_turns[row]],
            self._noise[self._noise_turns[row]],
            split=self.split,
            plan_row=row,
        )


def plan_split(manifest: Manifest, recipe: Recipe, split: Split) -> Sequence[MixPlan]:
    """Plan all examples of a split; reads no audio.

    Clips are used in turn, shuffled anew in each turn, speech apart from noise, so none is used
    twice before all have been used once. Asking for more examples keeps the first ones.

    Raises:
        InputError: the split has no noise or no speech that is long enough, or the recipe
            contradicts itself.
    """
    check_recipe(recipe, where=f"recipe {recipe.name}")
    if recipe.examples.get(split, 0) == 0:
        return []
    speech, noise = usable_speech(manifest, recipe, split), manifest.noise(split)
    for kind, clips in (("speech", manifest.speech(split)), ("noise", noise)):
        if not clips:
            raise InputError(
                f"corpus {manifest.card}: has no {kind} in split '{split}'; add some to its card,"
                " or leave the split out"
            )
    if not speech:
        raise InputError(
            f"corpus {manifest.card}: all speech in split '{split}' is shorter than"
            f" min_speech_seconds ({recipe.min_speech_seconds}); lower it"
        )
    return SplitPlan(recipe, split, speech, noise)


def usable_speech(manifest: Manifest, recipe: Recipe, split: str) -> list[Clip]:
    """The speech clips of a split that are not too short for the recipe."""
    return [clip for clip in manifest.speech(split) if clip.seconds >= recipe.min_speech_seconds]


def _turns(count: int, clips: int, key: list[int]) -> np.ndarray:
    """`count` clip numbers: one permutation of all clips after the other."""
    rng = np.random.default_rng(np.random.SeedSequence(key))
    return np.concatenate([rng.permutation(clips) for _ in range(math.ceil(count / clips))])[:count]


def draw_mix(
    rng: np.random.Generator, recipe: Recipe, speech: Clip, noise: Clip, *, split: str, plan_row: int
) -> MixPlan:
    """Draw one example of `speech` in `noise`.

    Every draw is made whether the recipe uses it or not, so that changing one of its values leaves
    the others' draws as they were.
    """
    snr, level, speech_at, noise_at = rng.random(4)
    transform_seed = int(rng.integers(2**32))
    rate = recipe.sample_rate_hz
    seconds = recipe.seconds if recipe.seconds is not None else speech.seconds
    samples = round(seconds * rate)
    return MixPlan(
        plan_row=plan_row,
        example_id=f"{recipe.name}-{split}-{plan_row:07d}",
        recipe=recipe.name,
        split=split,
        sample_rate_hz=rate,
        samples=samples,
        speech=_range(speech, samples, rate, speech_at, loop=False),
        noise=_range(noise, samples, rate, noise_at, loop=True),
        speaker=speech.speaker,
        environment=noise.environment,
        snr_db=_between(recipe.min_snr_db, recipe.max_snr_db, snr),
        level_dbfs=_level(recipe, level),
        max_peak=recipe.max_peak,
        noise_transforms=recipe.noise_transforms,
        mixture_transforms=recipe.mixture_transforms,
        transform_seed=transform_seed,
    )


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _level(recipe: Recipe, share: float) -> float | None:
    if recipe.min_level_dbfs is None or recipe.max_level_dbfs is None:
        return None
    return _between(recipe.min_level_dbfs, recipe.max_level_dbfs, share)


def _range(clip: Clip, samples: int, sample_rate_hz: int, share: float, *, loop: bool) -> SourceRange:
    """A stretch of `clip` that starts at random: inside it where it fits, anywhere when looped."""
    needed = math.ceil(samples * clip.sample_rate_hz / sample_rate_hz)
    if needed <= clip.samples:
        starts, taken = clip.samples - needed + 1, needed
    else:
        starts, taken = (clip.samples, needed) if loop else (1, clip.samples)
    return SourceRange(
        clip_id=clip.clip_id,
        path=clip.path,
        channel=clip.channel,
        sample_rate_hz=clip.sample_rate_hz,
        clip_samples=clip.samples,
        offset=int(share * starts),
        samples=taken,
        licence=clip.licence,
    )


def to_row(plan: MixPlan) -> dict[str, Any]:
    """A plan as plain nested values, for JSON or a table."""
    return dataclasses.asdict(plan)


def from_row(row: Mapping[str, Any]) -> MixPlan:
    """The inverse of `to_row`."""
    values = dict(row)
    for name in ("noise_transforms", "mixture_transforms"):
        values[name] = tuple(Transform(**transform) for transform in row[name])
    return MixPlan(**{**values, "speech": SourceRange(**row["speech"]), "noise": SourceRange(**row["noise"])})


def plan_hash(plans: Iterable[MixPlan]) -> str:
    """Identifies what rendering these rows gives; the same wherever the recordings are kept."""
    digest = hashlib.sha256()
    for plan in plans:
        row = to_row(plan)
        del row["speech"]["path"], row["noise"]["path"]
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:16]
