"""Opening an index of ten million examples and drawing batches from it, as each rank of a run does.

    python -m tests.benchmarks.bench_index [EXAMPLES]

Prints, with the table beside the index and without it (an index from before there were tables): seconds of
CPU until the first batch, milliseconds of CPU per step of 64 examples, and memory.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rwsa.shards.examples import Examples
from rwsa.shards.index import INDEX_NAME, SCHEMA_VERSION, TABLE_NAME, ShardEntry, made_with, read_index
from rwsa.shards.sampling import Order, batches
from rwsa.shards.table import TableWriter, table_bytes

SHARD_EXAMPLES, RATE_HZ, STEPS = 64, 16_000, 2000
_NUMBER = 999_999  # in the template of a line


def main(argv: Sequence[str]) -> None:
    if argv[:1] == ["--open"]:
        _open(Path(argv[1]))
        return
    examples = int(argv[0]) if argv else 10_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_synthetic_index(folder, examples // SHARD_EXAMPLES)
        for kind in ("with its table", "without its table"):
            sizes = [
                f"{path.name} {path.stat().st_size / 1e6:.0f} MB" for path in sorted(folder.glob("index.*"))
            ]
            print(f"{kind}: {', '.join(sizes)}", flush=True)
            subprocess.run([sys.executable, "-m", __spec__.name, "--open", name], check=True)
            (folder / TABLE_NAME).unlink(missing_ok=True)


def write_synthetic_index(folder: Path, shards: int) -> None:
    """Write the index and table of shards that do not exist, each with 64 examples of 4 s."""
    template = _entry()
    values = {field.name: getattr(template, field.name) for field in dataclasses.fields(template)}
    values |= {"examples": template.examples.rows(), "failures": []}
    line, table = json.dumps(values, sort_keys=True), TableWriter()
    with (folder / INDEX_NAME).open("wb") as file:

        def write(text: bytes) -> None:
            table.add_text(text)
            file.write(text)

        write(f'{{"schema_version": {SCHEMA_VERSION}, "shards": ['.encode())
        for number in range(shards):
            write(b",\n" if number else b"\n")
            text = line.replace(f'"number": {_NUMBER}', f'"number": {number}')
            data = text.replace(f"{_NUMBER}", f"{number:06d}").encode()
            table.add_entry(data, dataclasses.replace(template, number=number))
            file.write(data)
        write(b"\n]}\n")
    (folder / TABLE_NAME).write_bytes(table_bytes(table.table()))


def _entry() -> ShardEntry:
    rows, at = list[list[int | str]](), 0
    for number in range(SHARD_EXAMPLES):
        members = dict[str, tuple[int, int, int]]()
        for name, length in (("clean", 70_000), ("json", 1_500), ("noisy", 90_000)):
            members[name] = (at + 512, length + number, 4_000_000_000 + number)
            at += 512 + -(-(length + number) // 512) * 512
        name = f"bench-train-{_NUMBER}-{number:02d}"
        rows.append([name, 64_000, *members["noisy"], *members["clean"], *members["json"]])
    return ShardEntry(
        schema_version=SCHEMA_VERSION,
        shard=f"train-{_NUMBER}.tar",
        split="train",
        number=_NUMBER,
        bytes=at + 10_240,
        sha256="a" * 64,
        samples_sha256="b" * 64,
        sample_rate_hz=RATE_HZ,
        seconds=SHARD_EXAMPLES * 4.0,
        corpus="bench",
        recipe_hash="c" * 12,
        plan_hash="d" * 16,
        made_with=made_with(),
        examples=Examples.of_rows(rows),
        failures=(),
    )


def _open(folder: Path) -> None:
    before, started = _peak_mb(), time.process_time()
    clock = time.perf_counter()
    index = read_index(folder, "train")
    opened = time.process_time() - started
    order = Order(shard_sizes=index.planned_sizes, seed=0)
    order.identity()
    drawn = batches(order, global_batch_size=64)
    next(drawn)
    first = time.process_time() - started
    clock = time.perf_counter() - clock
    print(
        f"  open after {opened:.2f} s of CPU, first batch of {order.samples:,} examples after {first:.2f} s"
        f" ({clock:.2f} s on the clock)"
    )
    entries, times = index.entries, list[float]()
    for batch in itertools.islice(drawn, STEPS):
        begun = time.process_time()
        for ref in batch.samples:
            _ = entries[ref.shard].examples[ref.index]
        times.append(time.process_time() - begun)
    drawing = (time.process_time() - started - first - sum(times)) / STEPS
    print(f"  a step of 64: order {1e3 * drawing:.3f} ms, entries {1e3 * sum(times) / STEPS:.3f} ms")
    print(f"  memory: {_peak_mb() - before:.0f} MB more than before, {_peak_mb():.0f} MB in all", flush=True)


def _peak_mb() -> float:
    # Unlike `ru_maxrss`, it does not count the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main(sys.argv[1:])
