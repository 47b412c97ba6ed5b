"""Reading shards against decoding alone and against mixing from source files; one line per value.

python -m tests.benchmarks.bench_reading
"""

from __future__ import annotations

import io
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import soundfile

from rwsa.audio import round_to_int16
from rwsa.corpora.manifest import Clip, Manifest
from rwsa.files import location
from rwsa.mixing import MixPlan, Recipe, plan_split, render_example
from rwsa.shards import ShardReader, write_shard
from rwsa.shards.examples import Examples
from rwsa.shards.index import (
    SCHEMA_VERSION,
    ShardEntry,
    ShardIndex,
    made_with,
    merge_index,
    read_index,
    write_entry,
)
from rwsa.shards.sampling import Cursor, Order, SampleRef, batches
from rwsa.training.config import DataConfig
from rwsa.training.data import TrainData
from tests.benchmarks.timing import cpu_seconds
from tests.object_store import environment, served

RATE_HZ, EXAMPLES, SHARD_EXAMPLES, RUNS = 16_000, 256, 64, 5
RECIPE = Recipe(name="bench", seconds=4.0, min_snr_db=-5.0, max_snr_db=15.0, examples={"train": EXAMPLES})


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plans = plan_split(_corpus(folder), RECIPE, "train")
        for number, at in enumerate(range(0, len(plans), SHARD_EXAMPLES)):
            items = [render_example(plan) for plan in plans[at : at + SHARD_EXAMPLES]]
            write_shard(folder / "shards", "train", number, items, sample_rate_hz=RATE_HZ)
        merge_index(folder / "shards")
        index = read_index(folder / "shards", "train")
        _compare(index, plans)
        _train(folder / "shards")
        _remote(index)
    _million()


def _compare(index: ShardIndex, plans: Sequence[MixPlan]) -> None:
    refs = _order(index)
    blobs = _flacs(index, refs)
    with ShardReader(index) as reader:
        works: dict[str, Callable[[], None]] = {
            "floor": lambda: _decode(blobs),
            "shards": lambda: _read(reader, refs),
            "source files": lambda: _mix(plans, refs),
        }
        seconds = {name: _least_cpu_seconds(work) for name, work in works.items()}
    floor, shards, sources = (seconds[name] for name in works)
    for name, value in seconds.items():
        print(f"{name}: {1e3 * value / EXAMPLES:.2f} ms of CPU per example of 4 s")
    print(f"reading shards: {floor / shards:.2f} of the decoding floor (goal: 0.8)")
    print(f"opening, seeking and mixing the source files: {sources / shards:.1f} times as long (goal: 10)")


def _order(index: ShardIndex) -> list[SampleRef]:
    order = Order(shard_sizes=index.shard_sizes, seed=0)
    return list(next(batches(order, global_batch_size=order.samples)).samples)


def _flacs(index: ShardIndex, refs: Sequence[SampleRef]) -> list[bytes]:
    """The FLAC data of every noisy and clean signal, in memory."""
    tars = [(index.folder / entry.shard).read_bytes() for entry in index.entries]
    blobs = []
    for ref in refs:
        example = index.entries[ref.shard].examples[ref.index]
        for member in (example.noisy, example.clean):
            blobs.append(tars[ref.shard][member.offset : member.offset + member.length])
    return blobs


def _decode(blobs: Sequence[bytes]) -> None:
    for blob in blobs:
        soundfile.read(io.BytesIO(blob), dtype="float32")


def _read(reader: ShardReader, refs: Sequence[SampleRef]) -> None:
    for ref in refs:
        reader.read(ref.shard, ref.index)


def _mix(plans: Sequence[MixPlan], refs: Sequence[SampleRef]) -> None:
    for ref in refs:
        render_example(plans[ref.shard * SHARD_EXAMPLES + ref.index])


def _train(shards: Path) -> None:
    """Time the batches of the training loop, normalised and cropped."""
    config = DataConfig(shards=str(shards), valid="train", loader_threads=1)
    data = TrainData(config, seed=0, segment_samples=30_600)
    segments = data.segments(Cursor(), global_batch_size=8, rank=0, world_size=1)
    next(segments)
    steps = EXAMPLES // 8
    started = time.process_time()
    for _ in range(steps):
        next(segments)
    each = (time.process_time() - started) / EXAMPLES
    segments.close()
    print(f"training segments: {1e3 * each:.2f} ms each, cropped to 1.9 s")


def _remote(index: ShardIndex) -> None:
    """Wall-clock time of reading from a store in this process; CPU time would include the store's."""
    with served() as store, ExitStack() as stack:
        stack.enter_context(patch.dict("os.environ", environment(store.url)))
        bucket = location("s3://bench")
        bucket.mkdir()
        for path in index.folder.iterdir():
            (bucket / path.name).write_bytes(path.read_bytes())
        for threads in (1, 8):
            config = DataConfig(shards="s3://bench", valid="train", loader_threads=threads)
            data = TrainData(config, seed=0, segment_samples=30_600)
            segments = data.segments(Cursor(), global_batch_size=8, rank=0, world_size=1)
            next(segments)
            started, steps = time.perf_counter(), 16
            for _ in range(steps):
                next(segments)
            each = (time.perf_counter() - started) / (8 * steps)
            segments.close()
            print(f"S3 server in this process, {threads} threads: {1e3 * each:.1f} ms of wall clock each")


def _million() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(15_625):
            write_entry(folder, _entry(number))
        merge_index(folder)
        size = (folder / "index.json").stat().st_size
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.process_time()
        index = read_index(folder, "train")
        taken = time.process_time() - started
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        count = sum(index.shard_sizes)
        print(f"index of {count:,} examples: {size / 1e6:.0f} MB, {taken:.1f} s of CPU, {more:.0f} MiB more")
        started = time.process_time()
        Order(shard_sizes=index.planned_sizes, seed=0).epoch(0)
        print(f"order of its epoch: {time.process_time() - started:.2f} s of CPU")


def _entry(number: int) -> ShardEntry:
    rng = np.random.default_rng(number)
    lengths, checksums = rng.integers(20_000, 90_000, (64, 3)), rng.integers(1 << 32, size=(64, 3))
    starts = 512 + np.concatenate([[0], np.cumsum(-(-(lengths + 512) // 512) * 512)[:-1]]).reshape(64, 3)
    rows = [
        [f"bench-train-{64 * number + at:07d}", 64_000, *np.stack(columns, axis=1).ravel().tolist()]
        for at, columns in enumerate(zip(starts, lengths, checksums, strict=True))
    ]
    return ShardEntry(
        schema_version=SCHEMA_VERSION,
        shard=f"train-{number:06d}.tar",
        split="train",
        number=number,
        bytes=int(starts[-1, -1] + lengths[-1, -1]),
        sha256="0" * 64,
        samples_sha256="0" * 64,
        sample_rate_hz=RATE_HZ,
        seconds=256.0,
        corpus="bench",
        recipe_hash="0" * 12,
        plan_hash="0" * 16,
        made_with=made_with(),
        examples=Examples.of_rows(rows),
        failures=(),
    )


def _corpus(folder: Path) -> Manifest:
    """FLAC files of usual lengths: speech of 12 s, noise of a minute at 48 kHz."""
    clips = [*_clips(folder, "speech", 24, 12, RATE_HZ), *_clips(folder, "noise", 4, 60, 48_000)]
    return Manifest(card="bench", clips=tuple(clips))


def _clips(folder: Path, kind: str, count: int, seconds: int, rate_hz: int) -> Iterator[Clip]:
    rng = np.random.default_rng(rate_hz)
    for number in range(count):
        samples = seconds * rate_hz
        loudness = 0.02 + np.sin(2 * np.pi * 2 * np.arange(samples) / rate_hz) ** 2
        wav = round_to_int16(0.1 * loudness * rng.standard_normal(samples))
        path = folder / f"{kind}-{number}.flac"
        soundfile.write(path, (wav * 32768).astype(np.int16), rate_hz, subtype="PCM_16")
        yield Clip(
            clip_id=f"bench/{kind}-{number}",
            kind="speech" if kind == "speech" else "noise",
            path=str(path),
            samples=samples,
            sample_rate_hz=rate_hz,
            split="train",
            speaker=str(number),
            recording=str(number),
            environment=None,
            licence="CC0",
        )


def _least_cpu_seconds(work: Callable[[], None]) -> float:
    """The least CPU time of several runs after a warm-up run."""
    work()
    return min(cpu_seconds(work) for _ in range(RUNS))


if __name__ == "__main__":
    main()
