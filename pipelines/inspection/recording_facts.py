"""Facts about the audio of a corpus's recordings: cached, or decoded in parallel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipelines.core.pool import map_unordered
from pipelines.core.progress import Progress
from rwsa.audio_facts import AudioFacts, audio_facts
from rwsa.corpora.manifest import Manifest
from rwsa.errors import InputError
from rwsa.file_cache import FileCache, FileStamp, cached_as, stamp_or_none
from rwsa.names import local_path, shown

# Small enough to lose little when killed, large enough for task overhead to be negligible.
_CHUNK_FILES, _CHUNK_SECONDS = 128, 600.0


@dataclass(frozen=True, kw_only=True)
class CorpusRecording:
    """A file of a corpus; `kind` is the clip's kind, or `clean` or `noisy` for the halves of a pair."""

    card: str
    kind: str
    split: str
    path: str
    channel: int | None
    seconds: float

    @property
    def key(self) -> tuple[str, int | None]:
        """Key of its facts: path and channel."""
        return self.path, self.channel


def recordings_of(manifest: Manifest) -> list[CorpusRecording]:
    """All recordings of a manifest."""
    clips = [
        CorpusRecording(
            card=manifest.card,
            kind=clip.kind,
            split=clip.split,
            path=clip.path,
            channel=clip.channel,
            seconds=clip.seconds,
        )
        for clip in manifest.clips
    ]
    halves = [
        CorpusRecording(
            card=manifest.card, kind=kind, split=pair.split, path=path, channel=None, seconds=pair.seconds
        )
        for pair in manifest.pairs
        for kind, path in (("clean", pair.clean), ("noisy", pair.noisy))
    ]
    return clips + halves


RecordingFacts = Mapping[tuple[str, int | None], AudioFacts | str]


def read_recording_facts(
    recordings: Sequence[CorpusRecording],
    cache: FileCache,
    *,
    workers: int | None = None,
    report: Callable[[str], None] = print,
) -> RecordingFacts:
    """Facts by `CorpusRecording.key`; a message instead for a file that cannot be decoded.

    Facts are cached after each chunk of files, so that little is lost when the process is killed. Messages
    are not cached, since the file may be repaired.

    Args:
        recordings: of all corpora.
        cache: of facts.
        workers: see `pipelines.core.pool.map_unordered`.
        report: receives progress lines.

    Raises:
        InputError: the cache cannot be used, or a worker was killed repeatedly.
    """
    wanted = {recording.key: recording for recording in recordings}
    stamps = {path: stamp_or_none(path) for path, _ in wanted}
    facts: dict[tuple[str, int | None], AudioFacts | str] = {}
    for channel in {channel for _, channel in wanted}:
        known = (stamp for path, of in wanted if of == channel and (stamp := stamps[path]) is not None)
        for path, values in cache.get(_cache_kind(channel), known).items():
            if (known_facts := cached_as(AudioFacts, values)) is not None:
                facts[path, channel] = known_facts
    missing = [recording for key, recording in wanted.items() if key not in facts]
    chunks = list(_chunks(missing))
    hours = sum(one.seconds for one in missing) / 3600
    with Progress(hours, "decode", "h", report) as progress:
        for number, results in map_unordered(
            _facts_of, [[one.key for one in chunk] for chunk in chunks], workers=workers
        ):
            chunk = chunks[number]
            decoded = dict(zip((one.key for one in chunk), results, strict=True))
            _cache_facts(cache, decoded, stamps)
            facts |= decoded
            progress.update(sum(one.seconds for one in chunk) / 3600)
    return facts


def _cache_kind(channel: int | None) -> str:
    return "audio-facts-1" if channel is None else f"audio-facts-1-channel-{channel}"


def _cache_facts(
    cache: FileCache,
    decoded: Mapping[tuple[str, int | None], AudioFacts | str],
    stamps: Mapping[str, FileStamp | None],
) -> None:
    by_channel: dict[int | None, dict[FileStamp, object]] = {}
    for (path, channel), facts in decoded.items():
        stamp = stamps[path]
        if stamp is not None and isinstance(facts, AudioFacts):
            by_channel.setdefault(channel, {})[stamp] = dataclasses.asdict(facts)
    for channel, values in by_channel.items():
        cache.put(_cache_kind(channel), values)


def _chunks(recordings: Sequence[CorpusRecording]) -> Iterator[list[CorpusRecording]]:
    """Chunks in order, limited by number of files and duration."""
    chunk: list[CorpusRecording] = []
    for recording in recordings:
        chunk.append(recording)
        if len(chunk) == _CHUNK_FILES or sum(one.seconds for one in chunk) >= _CHUNK_SECONDS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _facts_of(keys: Sequence[tuple[str, int | None]]) -> list[AudioFacts | str]:
    """Facts of a chunk, in a Ray task."""
    return [_fact(path, channel) for path, channel in keys]


def _fact(path: str, channel: int | None) -> AudioFacts | str:
    try:
        return audio_facts(local_path(path), channel=channel)
    except InputError as error:
        return str(error).removeprefix(f"{shown(local_path(path))}: ")
