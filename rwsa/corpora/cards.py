"""Corpus cards: YAML with the folders of a corpus and how a path maps to split, speaker and recording."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field

from rwsa.config import build_with_variables, config, read_yaml
from rwsa.corpora.matching import MAX_CHARACTERS
from rwsa.errors import InputError
from rwsa.variables import PathText

Split = Literal["train", "valid", "test"]
# Far above any need; beyond them numbers overflow, or memory or time runs out.
MAX_RATE_HZ = 1_000_000
MAX_EXAMPLES = 1_000_000_000
# Online mixing draws a seed of 64 bits for each epoch.
Seed = Annotated[int, Field(ge=0, lt=2**64)]
SPLITS: tuple[str, ...] = get_args(Split)
SOURCE_GROUPS = ("split", "speaker", "recording", "environment", "clip")
PAIR_GROUPS = ("split", "speaker", "pair")


@config
class SourceFolder:
    """A folder of audio files and the rules that assign them to splits.

    Attributes:
        root: the folder; relative paths start at the current directory.
        split: the split of every file; for a folder without `splits` and without a group `split`.
        splits: split -> {named group: values}. Rules are tried in the order written; the first rule whose
            groups all have one of the listed values applies; `{}` matches every file. Files without a
            matching rule are left out (and counted).
        exclude: files whose path below `root` contains a match of one of these regular expressions are
            left out.
        published_split: trust the publisher that the splits are disjoint. Required where several splits
            hold files without a speaker label (noise: a recording label), since this cannot be checked.
        licence: if it differs from the card's.
    """

    root: PathText
    split: Split | None = None
    splits: dict[Split, dict[str, tuple[str, ...]]] = dataclasses.field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    published_split: bool = False
    licence: str | None = None


@config
class Source(SourceFolder):
    """A folder of clean speech, of noise, or of room impulse responses.

    Attributes:
        pattern: regular expression that must match the full path below `root` (with `/` and suffix); its
            named groups, out of `SOURCE_GROUPS`, label the file.
        channel: which channel of multi-channel files to use (from 0); None reports them as problems.
    """

    pattern: str
    channel: Annotated[int, Field(le=65_535)] | None = None


@config
class PairSource(SourceFolder):
    """A folder of ready-made mixtures and their clean targets.

    Attributes:
        clean, noisy: regular expressions like `Source.pattern`, with groups out of `PAIR_GROUPS`. Two files
            form a pair if their `pair` (and `split`, where both patterns have it) agree.
    """

    clean: str
    noisy: str


@config
class Scores:
    """Mean scores of a corpus: wide-band PESQ, SSNR in dB, ESTOI, SI-SDR in dB."""

    pesq: float
    ssnr: float
    estoi: float
    si_sdr: float


@config
class Evaluation:
    """The test mixtures of a card of speech and noise.

    Attributes:
        recipe: path of the mixing recipe, relative to the card's folder; `read_card` prepends that folder.
        examples: number of mixtures.
        seed: seed of their plan.
    """

    recipe: PathText
    examples: Annotated[int, Field(ge=0, le=MAX_EXAMPLES)]
    seed: Seed = 0


@config
class CorpusCard:
    """The description of one corpus.

    Attributes:
        sample_rate_hz: the rate at which the corpus is used. Files of speech, noise and rooms may have a
            higher rate (mixing resamples them); pairs must have this rate.
        rooms: room impulse responses; the group `recording` names the room, or whatever else must stay in
            one split.
        noisy_row: published scores of the noisy test files, which a genuine copy reproduces.
        clips_expected: split -> number of speech clips and pairs in a complete copy.
        get: how to obtain the corpus; part of the error if it is missing.
    """

    name: str
    description: str
    sample_rate_hz: Annotated[int, Field(le=MAX_RATE_HZ)]
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
    """Read and check a card; `${NAME}` and `${NAME:-default}` in its paths are replaced from the environment.

    Raises:
        InputError: the file is missing or not YAML, a variable is unset or not allowed, a key is unknown (the
            message names the nearest valid one), missing, ill-typed or contradicts another.
    """
    card = build_with_variables(CorpusCard, read_yaml(path), where=str(path))
    check_card(card, where=str(path))
    if card.evaluation is None:
        return card
    recipe = str(path.parent / card.evaluation.recipe)
    return dataclasses.replace(card, evaluation=dataclasses.replace(card.evaluation, recipe=recipe))


def sources(card: CorpusCard) -> Iterator[tuple[str, Source | PairSource]]:
    """Every source of a card with its key, such as `noise[0]`."""
    for key in ("speech", "noise", "rooms", "pairs"):
        for index, source in enumerate(getattr(card, key)):
            yield f"{key}[{index}]", source


def check_card(card: CorpusCard, *, where: str) -> None:
    """Check names, regular expressions, and that every file gets a split from exactly one rule.

    Raises:
        InputError: beginning with `where`, naming the key.
    """
    if not re.fullmatch(r"\w[\w.-]*", card.name):
        raise InputError(f"{where}: name is '{card.name}'; use only letters, digits, '-', '_' and '.'")
    if card.sample_rate_hz <= 0:
        raise InputError(f"{where}: sample_rate_hz is {card.sample_rate_hz}; it must be above 0")
    if not (card.speech or card.noise or card.pairs):
        raise InputError(f"{where}: has none of speech, noise and pairs; add at least one source")
    for key, source in sources(card):
        for expression in source.exclude:
            _compile(expression, where=f"{where}: {key}.exclude")
        _check_split(source, _groups(source, where=f"{where}: {key}"), where=f"{where}: {key}")


def split_of(source: SourceFolder, labels: Mapping[str, str | None]) -> str | None:
    """The split of a file with these labels, None if no rule matches.

    Without `split` and `splits` it is the value of the group `split`, unchecked.
    """
    if source.split is not None:
        return source.split
    if not source.splits:
        return labels["split"]
    for split, rule in source.splits.items():
        if all(labels.get(group) in values for group, values in rule.items()):
            return split
    return None


def _groups(source: Source | PairSource, *, where: str) -> set[str]:
    """The named groups of a source's expressions; raises if one is not a valid name."""
    if isinstance(source, Source):
        return _named(source.pattern, SOURCE_GROUPS, where=f"{where}.pattern")
    groups: set[str] = set()
    for key in ("clean", "noisy"):
        named = _named(getattr(source, key), PAIR_GROUPS, where=f"{where}.{key}")
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
    if len(expression) > MAX_CHARACTERS:
        raise InputError(
            f"{where}: has {len(expression):,} characters; a regular expression may have {MAX_CHARACTERS}"
        )
    try:
        return re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"{where}: '{expression}' is not a regular expression ({error})") from error


def _check_split(source: SourceFolder, groups: set[str], *, where: str) -> None:
    if source.split is not None and (source.splits or "split" in groups):
        raise InputError(f"{where}: gives split twice; keep one of split, splits and the group (?P<split>…)")
    if source.split is None and not source.splits and "split" not in groups:
        raise InputError(f"{where}: gives no split; add split, splits or a group (?P<split>…)")
    for split, rule in source.splits.items():
        for group in sorted(set(rule) - groups):
            raise InputError(
                f"{where}.splits.{split}: the pattern has no group '{group}'; it has {sorted(groups)}"
            )
