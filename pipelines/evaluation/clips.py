"""The test clips of a corpus: ready-made pairs, or mixtures rendered from its card's recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from rwsa.audio import read_mono, resample
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.corpora import scan
from rwsa.corpora.cards import CorpusCard, Scores, read_card
from rwsa.corpora.manifest import ClipPair, Manifest, Problem
from rwsa.errors import InputError
from rwsa.file_cache import FileCache
from rwsa.mixing import MixPlan, plan_split, render_example
from rwsa.mixing.recipes import read_recipe
from rwsa.names import local_path

SPLIT: Final = "test"


@dataclass(frozen=True, kw_only=True)
class EvaluationClip:
    """One clip to score: the paths of its audio or how to mix it, without the audio.

    Attributes:
        clip_id: starts with the corpus.
        source: a ready-made pair, or the plan row of a mixture.
    """

    corpus: str
    clip_id: str
    seconds: float
    speaker: str | None
    environment: str | None
    source: ClipPair | MixPlan

    def __str__(self) -> str:
        return self.clip_id


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """The test clips of a corpus.

    Attributes:
        clips: to score now.
        of_clips: number in the whole test set, or more if more mixtures are requested.
        complete: whether `clips` are all usable ones.
        problems: unusable files.
        noisy_row: published scores of the whole test set.
        card: path of its card.
    """

    name: str
    clips: tuple[EvaluationClip, ...]
    of_clips: int
    complete: bool
    problems: tuple[Problem, ...]
    noisy_row: Scores | None
    card: str = ""


def read_sets(
    cards: Sequence[Path],
    *,
    examples: int | None = None,
    strict: bool = False,
    cache: FileCache | None = None,
) -> list[EvaluationSet]:
    """The test clips of several corpora; reads headers, no audio.

    Args:
        cards: corpus cards. One with pairs stands for its pairs of split test; one with speech and
            noise for the mixtures that its `evaluation` describes.
        examples: clips per corpus: at most this many pairs, spread over the set; or this many mixtures in
            place of the card's number, where the first ones stay the same.
        strict: raise on the first file that cannot be used.
        cache: of headers; see `rwsa.corpora.scan`.

    Raises:
        InputError: no card is given, two have one name, a card cannot be used or offers nothing to
            score, or see `rwsa.corpora.scan`.
    """
    if not cards:
        raise InputError("no corpus card given; name at least one, such as datasets/libri_esc50.yaml")
    if examples is not None and examples < 1:
        raise InputError(f"--examples {examples}: must be at least 1")
    sets = [_read_set(path, examples, strict, cache) for path in cards]
    names = [one.name for one in sets]
    for path, name in zip(cards, names, strict=True):
        if names.count(name) > 1:
            raise InputError(f"{path}: another card given is named '{name}' too; leave one out")
    return sets


def load_clip(clip: EvaluationClip) -> tuple[np.ndarray, np.ndarray]:
    """Read or mix a clip.

    Returns:
        noisy, clean: float32 `[samples]` at 16 kHz, where the metrics are defined.

    Raises:
        InputError: a file is missing, damaged or silent, or the pair differs in length.
    """
    if isinstance(clip.source, ClipPair):
        rate_hz = clip.source.sample_rate_hz
        noisy, clean = (
            read_mono(local_path(path), rate_hz) for path in (clip.source.noisy, clip.source.clean)
        )
        if len(noisy) != len(clean):
            raise InputError(
                f"{clip.source.noisy}: has {len(noisy)} samples and its clean partner {len(clean)};"
                " a pair must be equally long"
            )
    else:
        example = render_example(clip.source)
        noisy, clean, rate_hz = example.noisy, example.clean, example.sample_rate_hz
    return resample(noisy, rate_hz, SAMPLE_RATE_HZ), resample(clean, rate_hz, SAMPLE_RATE_HZ)


def _read_set(path: Path, examples: int | None, strict: bool, cache: FileCache | None) -> EvaluationSet:
    card = read_card(path)
    if not card.pairs and card.evaluation is None:
        raise InputError(
            f"{path}: has neither pairs nor an `evaluation` that specifies how to mix its speech and noise;"
            " add one of them"
        )
    manifest = scan(card, strict=strict, cache=cache)
    clips, of_clips = (
        pairs_to_score(card, manifest, examples) if card.pairs else _mixtures(card, manifest, examples)
    )
    if not clips:
        raise InputError(f"{path}: has no clips in split '{SPLIT}'; correct its splits")
    return EvaluationSet(
        name=card.name,
        clips=tuple(clips),
        of_clips=of_clips,
        complete=len(clips) >= (len(manifest.pairs_of(SPLIT)) if card.pairs else of_clips),
        problems=manifest.problems,
        noisy_row=card.noisy_row,
        card=str(path),
    )


def pairs_to_score(
    card: CorpusCard, manifest: Manifest, examples: int | None = None
) -> tuple[list[EvaluationClip], int]:
    """A card's test pairs, at most `examples`, and the number of clips in the whole test set."""
    pairs = manifest.pairs_of(SPLIT)
    count = len(pairs) if examples is None else min(examples, len(pairs))
    clips = [
        EvaluationClip(
            corpus=card.name,
            clip_id=pair.clip_id,
            seconds=pair.seconds,
            speaker=pair.speaker,
            environment=None,
            source=pair,
        )
        # Evenly spaced, since neighbours share a speaker.
        for pair in (pairs[number * len(pairs) // count] for number in range(count))
    ]
    # If the card does not give the number, an unusable file may belong to the test set.
    return clips, card.clips_expected.get("test") or len(pairs) + len(manifest.problems)


def _mixtures(card: CorpusCard, manifest: Manifest, examples: int | None) -> tuple[list[EvaluationClip], int]:
    assert card.evaluation is not None
    count = card.evaluation.examples if examples is None else examples
    recipe = read_recipe(Path(card.evaluation.recipe))
    recipe = dataclasses.replace(recipe, examples={SPLIT: count}, seed=card.evaluation.seed)
    clips = [
        EvaluationClip(
            corpus=card.name,
            clip_id=f"{card.name}/{plan.example_id}",
            seconds=plan.samples / plan.sample_rate_hz,
            speaker=plan.speaker,
            environment=plan.environment,
            source=plan,
        )
        for plan in plan_split(manifest, recipe, SPLIT)
    ]
    # More than the card's number are a larger test set, which starts with the card's.
    return clips, max(count, card.evaluation.examples)
