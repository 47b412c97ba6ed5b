"""Clips for domain gaps: the test clips of a card, or examples of a folder of shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.core.progress import Progress
from pipelines.evaluation.clips import EvaluationClip, EvaluationSet, load_clip, read_sets
from rwsa.acoustics import GROUPS, clip_features
from rwsa.audio import resample
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.corpora.manifest import ClipPair
from rwsa.errors import InputError
from rwsa.files import StoragePath
from rwsa.shards import ShardReader
from rwsa.shards.index import ShardIndex, read_index

# Distances are between all clips; more would narrow no interval noticeably.
MOST_EXAMPLES = 2000
SHARD_EXAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class LoadedClip:
    """A clip at 16 kHz, float32 `[samples]`.

    Attributes:
        speaker, noise: the speaker, and the (first) noise recording; None where unknown.
    """

    clip_id: str
    speaker: str | None
    noise: str | None
    noisy: np.ndarray
    clean: np.ndarray


@dataclass(frozen=True, kw_only=True)
class GapSource:
    """A corpus to compare.

    Attributes:
        about: text on the origin of the clips.
        of_clips: number of clips that they are taken from.
        loaders: one per clip, called once each, in order.
    """

    name: str
    about: str
    of_clips: int
    loaders: Sequence[Callable[[], LoadedClip]]


@dataclass(frozen=True, kw_only=True)
class MeasuredCorpus:
    """The features of a corpus's clips.

    Attributes:
        features: by group, `[clips, features]`.
        speakers, noises: of each clip; None where unknown.
        failures: (clip, reason) of those that could not be measured.
    """

    name: str
    about: str
    of_clips: int
    features: dict[str, np.ndarray]
    speakers: tuple[str | None, ...]
    noises: tuple[str | None, ...]
    failures: tuple[tuple[str, str], ...]


def read_sources(
    cards: Sequence[Path], shards: Sequence[StoragePath], *, split: str, examples: int | None
) -> list[GapSource]:
    """The corpora to compare; reads headers and indexes, no audio.

    Args:
        cards: corpus cards; see `pipelines.evaluation.clips.read_sets`.
        shards: folders of shards.
        split: of the shards.
        examples: clips per corpus; by default as its card says, and 200 for a folder of shards.

    Raises:
        InputError: a card or folder cannot be used, two corpora have one name, there are fewer than
            two, or `examples` is out of range.
    """
    if examples is not None and not 4 <= examples <= MOST_EXAMPLES:
        raise InputError(f"--examples {examples}: must be from 4 to {MOST_EXAMPLES}")
    if len(cards) + len(shards) < 2:
        raise InputError("a comparison needs two corpora; name more cards (--card) or folders (--shards)")
    sources = [_of_card(one) for one in read_sets(cards, examples=examples)] if cards else []
    sources += [_of_shards(folder, split, examples or SHARD_EXAMPLES) for folder in shards]
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two corpora to compare are named '{name}'; leave one out or rename its folder")
    return sources


def measure(source: GapSource, report: Callable[[str], None]) -> MeasuredCorpus:
    """Measure the features of a corpus, one clip in memory at a time; failed clips are left out and counted.

    Raises:
        InputError: fewer than four clips can be measured.
    """
    rows, failures = list[dict[str, np.ndarray]](), list[tuple[str, str]]()
    speakers, noises = list[str | None](), list[str | None]()
    with Progress(len(source.loaders), source.name, "clips", report) as progress:
        for number, load in enumerate(source.loaders, start=1):
            name = f"clip {number}"
            try:
                clip = load()
                name = clip.clip_id
                rows.append(clip_features(clip.noisy, clip.clean))
                speakers.append(clip.speaker)
                noises.append(clip.noise)
            except InputError as error:
                failures.append((name, str(error)))
            progress.set_postfix_str(f"failures {len(failures)}", refresh=False)
            progress.update()
    if len(rows) < 4:
        reason = f"; the first that failed, {': '.join(failures[0])}" if failures else ""
        raise InputError(f"{source.name}: only {len(rows)} clips can be measured, of four needed{reason}")
    return MeasuredCorpus(
        name=source.name,
        about=source.about,
        of_clips=source.of_clips,
        features={group.name: np.array([row[group.name] for row in rows]) for group in GROUPS},
        speakers=tuple(speakers),
        noises=tuple(noises),
        failures=tuple(failures),
    )


def _of_card(one: EvaluationSet) -> GapSource:
    def loader(number: int) -> Callable[[], LoadedClip]:
        def load() -> LoadedClip:
            clip = one.clips[number]
            noisy, clean = load_clip(clip)
            return LoadedClip(
                clip_id=clip.clip_id,
                speaker=clip.speaker,
                noise=_noise_of(clip),
                noisy=noisy,
                clean=clean,
            )

        return load

    return GapSource(
        name=one.name,
        about="test clips of its card",
        of_clips=one.of_clips,
        loaders=[loader(number) for number in range(len(one.clips))],
    )


def _noise_of(clip: EvaluationClip) -> str | None:
    """The first noise recording of a mixture; unknown for ready-made pairs."""
    if isinstance(clip.source, ClipPair) or not clip.source.noises[0].layers:
        return None
    return clip.source.noises[0].layers[0].parts[0].clip_id


def _of_shards(folder: StoragePath, split: str, examples: int) -> GapSource:
    index = read_index(folder, split)
    total = sum(index.shard_sizes)
    count = min(examples, total)
    places = [index.locate(number * total // count) for number in range(count)]
    reader = ShardReader(index, max_open=1)
    return GapSource(
        name=f"{folder.name}-{split}",
        about=f"split '{split}' of shards of {_corpora(index)}",
        of_clips=total,
        loaders=list(_shard_loaders(reader, places)),
    )


def _shard_loaders(
    reader: ShardReader, places: Sequence[tuple[int, int]]
) -> Iterator[Callable[[], LoadedClip]]:
    def loader(shard: int, at: int) -> Callable[[], LoadedClip]:
        def load() -> LoadedClip:
            # Closed after each clip: opening costs little compared with decoding.
            with reader:
                example = reader.read(shard, at)
            rate_hz = example.sample_rate_hz
            return LoadedClip(
                clip_id=example.example_id,
                speaker=example.meta.get("speaker"),
                noise=example.meta.get("noise"),
                noisy=resample(example.noisy, rate_hz, SAMPLE_RATE_HZ),
                clean=resample(example.clean, rate_hz, SAMPLE_RATE_HZ),
            )

        return load

    return (loader(shard, at) for shard, at in places)


def _corpora(index: ShardIndex) -> str:
    return ", ".join(sorted(set(index.corpora) - {""})) or "an unnamed corpus"
