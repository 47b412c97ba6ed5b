"""Corpus cards: YAML that says where recordings lie, and how a path maps to split, speaker and recording."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

from rwsa.config import build, config, read_yaml
from rwsa.errors import InputError

Split = Literal["train", "valid", "test"]
SPLITS: tuple[str, ...] = get_args(Split)
SOURCE_GROUPS = ("split", "speaker", "recording", "environment", "clip")
PAIR_GROUPS = ("split", "speaker", "pair")


@config
class Place:
    """A folder and how its files come by their split.

    Attributes:
        root: the folder; a relative one is relative to the current directory.
        split: the split of every file, where neither a pattern nor `splits` tells.
        splits: split -> {named group: values}. Rules are tried in the order written, and the first
            whose every group has one of its values takes the file; `{}` takes all that is left. A file
            that no rule takes is left out (and counted).
        exclude: files in whose path below `root` one of these regular expressions is found are left out.
        published_split: the publisher vouches that the splits are apart; needed where several splits
            hold files whose names do not tell the speaker (noise: the recording), so that nobody can check.
        licence: where it differs from the card's.
    """

    root: str
    split: Split | None = None
    splits: dict[Split, dict[str, tuple[str, ...]]] = dataclasses.field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    published_split: bool = False
    licence: str | None = None


@config
class Source(Place):
    """A folder of clean speech, of noise, or of room impulse responses.

    Attributes:
        pattern: regular expression that a whole path below `root` (with `/`, suffix included) must
            match to count; its named groups, out of `SOURCE_GROUPS`, label the file.
        channel: which channel to take of files with several (from 0); without it they are problems.
    """

    pattern: str
    channel: int | None = None


@config
class PairSource(Place):
    """A folder of ready-made mixtures and their clean targets.

    Attributes:
        clean, noisy: regular expressions as `Source.pattern`, with groups out of `PAIR_GROUPS`. Files
            whose `pair` (and `split`, where both patterns have it) agree belong together.
    """

    clean: str
    noisy: str


@config
class Scores:
    """Means over a corpus: wide-band PESQ, SSNR in dB, ESTOI, SI-SDR in dB."""

    pesq: float
    ssnr: float
    estoi: float
    si_sdr: float


@config
class Evaluation:
    """How a card of speech and noise becomes test mixtures.

    Attributes:
        recipe: YAML of the mixing recipe, relative to the card's folder; `read_card` puts that before it.
        examples: how many mixtures.
        seed: of their plan.
    """

    recipe: str
    examples: int
    seed: int = 0


@config
class CorpusCard:
    """A corpus.

    Attributes:
        sample_rate_hz: the rate that the corpus is used at. Speech, noise and rooms may have a higher one
            (mixing resamples), pairs must have this one.
        rooms: room impulse responses; `recording` names the room, or whatever must stay in one split.
        noisy_row: published scores of the noisy test files, which a genuine copy reproduces.
        clips_expected: split -> how many speech clips and pairs a complete copy has.
        get: how a person obtains the corpus; part of the error where it is not found.
    """

    name: str
    description: str
    sample_rate_hz: int
    licence: str
    speech: tuple[Source, ...] = ()
    noise: tuple[Source, ...] = ()
    rooms: tuple[Source, ...] = ()
    pairs: tuple[PairSource, ...] = ()
    noisy_row: Scores | None = None
    clips_expected: dict[Split, int] = dataclasses.field(default_factory=dict)
    evaluation: Evaluation | None = None
    get: str | None = None


def read_card(path: Path) -> CorpusCard:
    """Read and check a card; `${NAME}` and `${NAME:-default}` in it come from the environment.

    Raises:
        InputError: the file is missing or not YAML, a variable is unset, a key is unknown (the message
            names the nearest valid one), missing, ill-typed or contradicts another.
    """
    card = build(CorpusCard, read_yaml(path), where=str(path))
    check_card(card, where=str(path))
    if card.evaluation is None:
        return card
    recipe = str(path.parent / card.evaluation.recipe)
    return dataclasses.replace(card, evaluation=dataclasses.replace(card.evaluation, recipe=recipe))


def places(card: CorpusCard) -> Iterator[tuple[str, Source | PairSource]]:
    """Every source of a card with the key it stands under, such as `noise[0]`."""
    for key in ("speech", "noise", "rooms", "pairs"):
        for index, place in enumerate(getattr(card, key)):
            yield f"{key}[{index}]", place


def check_card(card: CorpusCard, *, where: str) -> None:
    """Check what types alone cannot: names, expressions, and that every file's split can be told.

    Raises:
        InputError: beginning with `where`, naming the key.
    """
    if not re.fullmatch(r"\w[\w.-]*", card.name):
        raise InputError(f"{where}: name is '{card.name}'; use letters, digits, '-', '_' and '.' alone")
    if card.sample_rate_hz <= 0:
        raise InputError(f"{where}: sample_rate_hz is {card.sample_rate_hz}; it must be above 0")
    if not (card.speech or card.noise or card.pairs):
        raise InputError(f"{where}: has none of speech, noise and pairs; say where the recordings are")
    for key, place in places(card):
        for expression in place.exclude:
            _compile(expression, where=f"{where}: {key}.exclude")
        _check_split(place, _groups(place, where=f"{where}: {key}"), where=f"{where}: {key}")


def split_of(place: Place, labels: Mapping[str, str | None]) -> str | None:
    """The split of a file with these labels, None where no rule takes it.

    Without `split` and `splits` it is the value of the group `split`, whatever that is.
    """
    if place.split is not None:
        return place.split
    if not place.splits:
        return labels["split"]
    for split, rule in place.splits.items():
        if all(labels.get(group) in values for group, values in rule.items()):
            return split
    return None


def _groups(place: Source | PairSource, *, where: str) -> set[str]:
    """The named groups of a place's expressions, all of them valid names."""
    if isinstance(place, Source):
        return _named(place.pattern, SOURCE_GROUPS, where=f"{where}.pattern")
    groups: set[str] = set()
    for key in ("clean", "noisy"):
        named = _named(getattr(place, key), PAIR_GROUPS, where=f"{where}.{key}")
        if "pair" not in named:
            raise InputError(f"{where}.{key}: has no group (?P<pair>…), which joins clean and noisy files")
        groups |= named
    return groups


def _named(expression: str, valid: tuple[str, ...], *, where: str) -> set[str]:
    named = set(_compile(expression, where=where).groupindex)
    for name in sorted(named.difference(valid)):
        raise InputError(f"{where}: has the group '{name}'; valid: {', '.join(valid)}")
    return named


def _compile(expression: str, *, where: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as error:
        raise InputError(f"{where}: '{expression}' is not a regular expression ({error})") from error


def _check_split(place: Place, groups: set[str], *, where: str) -> None:
    if place.split is not None and (place.splits or "split" in groups):
        raise InputError(f"{where}: says split twice; keep one of split, splits and the group (?P<split>…)")
    if place.split is None and not place.splits and "split" not in groups:
        raise InputError(f"{where}: says no split; give split, splits or a group (?P<split>…)")
    for split, rule in place.splits.items():
        for group in sorted(set(rule) - groups):
            raise InputError(
                f"{where}.splits.{split}: '{group}' is no group of the pattern; it has {sorted(groups)}"
            )
