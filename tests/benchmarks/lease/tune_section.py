"""The Triton scan's sizes: compiled by several processes, then timed along both axes at every level of xs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from tests.benchmarks.bench_gpu import Scan, _inputs, _ms
from tests.benchmarks.lease.machine import Section, start

# Steps unrolled, blocks per saved state, warps, states of a tile. By ptxas on Triton 3.6 for sm_90, the first
# (today's) spills 196 bytes forward and 244 backward, the second none.
CONFIGURATIONS = ((4, 4, 1, 512), (2, 4, 1, 512), (4, 2, 1, 256), (2, 2, 1, 512), (4, 4, 1, 256))
_NAMES = ("UNROLLED_STEPS", "BLOCKS_PER_SAVED_STATE", "WARPS", "TILE_STATES")
# Frames, bins, channels of a scan at each level of xs.
LEVELS = ((256, 128, 64), (128, 64, 128), (64, 32, 192))


def main() -> int:
    if "--compile" in sys.argv:
        _compile(tuple(map(int, sys.argv[sys.argv.index("--compile") + 1].split(","))))
        return 0
    section = start("tune")
    if not section.on_gpu:
        section.results.note("Triton", "needs a GPU; the CPU's loop is timed instead")
        _time(section, "CPU loop", ((8, 6, 16),), batch=1)
        return 1 if section.results.failed else 0
    section.results.measure("compile all configurations", _compile_all, "s started")
    for sizes in CONFIGURATIONS:
        with _sizes(sizes):
            _time(section, f"K,J,warps,tile {sizes}", LEVELS, batch=8)
    return 1 if section.results.failed else 0


def _sizes(sizes: tuple[int, ...]) -> Any:
    from rwsa.kernels import scan_triton

    return patch.multiple(scan_triton, **dict[str, Any](zip(_NAMES, sizes, strict=True)))


def _compile_all() -> float:
    """Fill Triton's cache, one process for each configuration."""
    started = [
        subprocess.Popen([sys.executable, "-m", __spec__.name, "--compile", ",".join(map(str, sizes))])
        for sizes in CONFIGURATIONS
    ]
    for process in started:
        process.wait()
    return float(len(started))


def _compile(sizes: tuple[int, ...]) -> None:
    with _sizes(sizes):
        for _, work in _works(LEVELS, 1, torch.device("cuda")):
            work()


def _works(
    levels: tuple[tuple[int, int, int], ...], batch: int, device: torch.device
) -> Iterator[tuple[str, Callable[[], None]]]:
    states = 16 if device.type == "cuda" else 4
    for frames, bins, channels in levels:
        for axis in ("time", "frequency"):
            for dtype in (torch.float32, torch.bfloat16):
                inputs = _inputs((batch, frames, bins, channels, states), axis, reverse=False, device=device)
                scan = Scan(inputs, dtype)
                name = f"{frames}×{bins}×{channels} along {axis}, {str(dtype).removeprefix('torch.')}"
                for part in ("forward", "backward"):
                    yield f"{part} {name}", scan.work(part, "auto")


def _time(section: Section, title: str, levels: tuple[tuple[int, int, int], ...], *, batch: int) -> None:
    runs = 10 if section.on_gpu else 1
    for name, work in _works(levels, batch, section.device):
        section.results.measure(
            f"{title}: {name}", partial(_ms, work, section.device, runs), "ms", needs_seconds=2
        )
        if section.on_gpu and name.startswith("forward"):
            section.results.measure(
                f"{title}: {name}, graph",
                partial(_replayed, work, section.device),
                "ms",
                needs_seconds=2,
            )


def _replayed(work: Callable[[], None], device: torch.device) -> float:
    """Milliseconds of a replay of the captured work."""
    for _ in range(3):
        work()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return _ms(graph.replay, device, 20)


if __name__ == "__main__":
    os.environ.setdefault("TRITON_CACHE_AUTOTUNING", "0")
    sys.exit(main())
