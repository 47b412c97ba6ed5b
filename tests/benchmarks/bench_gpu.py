"""The scan and the training step on a GPU: checked against float64, then measured.

python -m tests.benchmarks.bench_gpu [--sizes xs] [--batches 8] [--modes eager] [--tune]

The scan has the shape of xs's first level, `[batch, frames, bins, channels]` and states, along both axes.
Its floor is the bytes it must read and write over the bandwidth of a copy. A step is the generator's:
forward, losses, backward, AdamW; no discriminator, no PESQ; compiling one takes minutes. Exits 1 where a
check or a figure failed, 2 without a GPU. Anywhere, this walks through it all:
--device cpu --scan-shape 1 16 8 16 4 --sizes nano --batches 1 --modes eager --runs 1 --steps 1
"""

from __future__ import annotations

import argparse
import functools
import gc
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from rwsa.kernels.scan import choose_backend, missing_backends, selective_scan, use_backend
from rwsa.losses import LossWeights, spectral_losses, weighted_total
from rwsa.models import SIZES, build_model
from rwsa.stft import stft
from tests.scan_inputs import NAMES, Inputs, draw, lying_across

TOLERANCE = 1e-4
AXES = ("time", "frequency")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Figures:
    """Prints one line per measurement and counts failures; running out of memory is a result."""

    def __init__(self) -> None:
        self.failed = 0

    def line(self, title: str, measure: Callable[[], str]) -> bool:
        """Whether the measurement succeeded."""
        measured = False
        try:
            text, measured = measure(), True
        except torch.OutOfMemoryError:
            text = "out of memory"
        except Exception as error:  # continue with the other measurements
            text = f"failed: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            self.failed += 1
        print(f"{title}: {text}", flush=True)
        return measured


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing to measure", file=sys.stderr)
        return 2
    print(f"{_name(device)} · torch {torch.__version__} · scan {choose_backend(device)}")
    if device.type == "cuda" and "triton" in (missing := missing_backends(device)):
        print(f"not triton: {missing['triton']}")
    figures = Figures()
    if not _checks(figures, arguments.scan_shape, device):
        return 1
    _scan_figures(figures, arguments, device)
    _step_figures(figures, arguments, device)
    return 1 if figures.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Check and time the scan and the training step.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scan-shape", type=int, nargs=5, default=(8, 256, 128, 64, 16), metavar="SIZE")
    parser.add_argument("--sizes", nargs="+", default=("xs", "m"), choices=SIZES)
    parser.add_argument("--batches", type=int, nargs="+", default=(8, 32))
    parser.add_argument("--modes", nargs="+", default=("eager", "compiled"), choices=("eager", "compiled"))
    parser.add_argument(
        "--runs", type=int, default=20, help="scans per round; the median of 3 rounds is reported"
    )
    parser.add_argument("--steps", type=int, default=4, help="training steps per round")
    parser.add_argument("--tune", action="store_true", help="time the Triton scan's other sizes too")
    return parser


def _inputs(shape: Sequence[int], axis: str, *, reverse: bool, device: torch.device) -> Inputs:
    batch, frames, bins, channels, states = shape
    outer, length = (bins, frames) if axis == "time" else (frames, bins)
    inputs = draw(batch, outer, length=length, channels=channels, states=states, reverse=reverse)
    inputs = inputs.on(str(device))
    return lying_across(inputs) if axis == "time" else inputs


def _checks(figures: Figures, shape: Sequence[int], device: torch.device) -> bool:
    """Whether all agree."""
    agree = True
    for axis, reverse in itertools.product(AXES, (False, True)):
        title = f"check along {axis}{', reversed' if reverse else ''}, largest error against float64"
        agree &= figures.line(title, functools.partial(_check, shape, axis, reverse, device))
    return agree


def _check(shape: Sequence[int], axis: str, reverse: bool, device: torch.device) -> str:
    """On a quarter of the batch: float64 states of every step take much memory."""
    inputs = _inputs((max(1, shape[0] // 4), *shape[1:]), axis, reverse=reverse, device=device)
    truth, result = inputs.scanned("reference", torch.float64), inputs.scanned("auto")
    errors = {
        name: ((result[name] - true).abs().max() / true.abs().max().clamp(min=1)).item()
        for name, true in truth.items()
    }
    text = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    if not all(error < TOLERANCE for error in errors.values()):
        raise ArithmeticError(f"{text}; allowed is {TOLERANCE}")
    return text


def _scan_figures(figures: Figures, arguments: argparse.Namespace, device: torch.device) -> None:
    bytes_a_ms = _copy_bytes_a_ms(device)
    print(f"bandwidth of a copy: {bytes_a_ms / 1e6:.0f} GB/s")
    for axis, (name, dtype) in itertools.product(AXES, DTYPES.items()):
        scan = Scan(_inputs(arguments.scan_shape, axis, reverse=False, device=device), dtype)
        for part in ("forward", "backward"):

            def measure(scan: Scan = scan, part: str = part, plain: bool = dtype is torch.float32) -> str:
                ms = _ms(scan.work(part, "auto"), device, arguments.runs)
                floor = scan.bytes(part) / bytes_a_ms
                text = f"{ms:.3f} ms, {ms / floor:.1f} times its floor of {floor:.3f} ms"
                if plain:
                    loop = _ms(scan.work(part, "reference"), device, 1)
                    text += f"; plain loop {loop:.1f} ms, {loop / ms:.0f} times as long"
                return text

            figures.line(f"scan {part} along {axis}, {name}", measure)
        del scan
        _release()
    if arguments.tune:
        _launch_figures(figures, arguments, device)


class Scan:
    """One scan as in the model: under autocast u, B, C, z are bfloat16, the rest stays float32."""

    def __init__(self, inputs: Inputs, dtype: torch.dtype) -> None:
        self.leaves = {
            n: (x.to(dtype) if n in "uBCz" else x).detach().requires_grad_()
            for n, x in inputs.tensors.items()
        }
        self.dy = inputs.dy.to(dtype)

    def work(self, part: str, backend: str) -> Callable[[], None]:
        """The function to time: the forward pass as in enhancement, or the backward pass alone."""
        if part == "forward":

            def forward() -> None:
                with torch.no_grad():
                    selective_scan(*(self.leaves[n] for n in NAMES), backend=backend)

            return forward
        y = selective_scan(*(self.leaves[n] for n in NAMES), backend=backend)

        def backward() -> None:
            torch.autograd.grad(y, list(self.leaves.values()), self.dy, retain_graph=True)

        return backward

    def bytes(self, part: str) -> int:
        """Bytes to read all sequences once and write y; or to read them and dy and write gradients."""
        sequences = sum(_size(self.leaves[n]) for n in ("u", "delta", "B", "C", "z"))
        return sequences + _size(self.dy) + (sequences if part == "backward" else 0)


def _launch_figures(figures: Figures, arguments: argparse.Namespace, device: torch.device) -> None:
    from rwsa.kernels import scan_triton as launched

    inputs = _inputs(arguments.scan_shape, "frequency", reverse=False, device=device)
    names = ("WARPS", "TILE_STATES", "UNROLLED_STEPS", "BLOCKS_PER_SAVED_STATE")
    for sizes in itertools.product((1, 2), (256, 512, 1024), (2, 4, 8), (2, 4)):

        def measure(sizes: tuple[int, ...] = sizes) -> str:
            with patch.multiple(launched, **dict[str, Any](zip(names, sizes, strict=True))):
                scan = Scan(inputs, torch.float32)
                parts = ("forward", "backward")
                times = [_ms(scan.work(part, "auto"), device, arguments.runs) for part in parts]
            return f"forward {times[0]:.3f} ms, backward {times[1]:.3f} ms"

        text = ", ".join(f"{name} {size}" for name, size in zip(names, sizes, strict=True))
        figures.line(f"scan with {text}", measure)


def _step_figures(figures: Figures, arguments: argparse.Namespace, device: torch.device) -> None:
    kinds = itertools.product(arguments.sizes, arguments.batches, DTYPES, arguments.modes)
    for size, batch, dtype, mode in kinds:
        title = f"step of {size}, batch {batch}, {dtype}, {mode}"
        figures.line(
            title,
            functools.partial(_step_figure, size, batch, dtype, mode, device=device, runs=arguments.steps),
        )
    size, batch = arguments.sizes[0], arguments.batches[0]

    def with_plain_loop() -> str:
        with use_backend("reference"):
            return _step_figure(size, batch, "float32", "eager", device=device, runs=1)

    figures.line(f"step of {size}, batch {batch}, float32, eager, plain loop for a scan", with_plain_loop)


def _step_figure(size: str, batch: int, dtype: str, mode: str, *, device: torch.device, runs: int) -> str:
    with _peak_memory(device) as peak:
        step = _step(size, batch, DTYPES[dtype], mode, device)
        ms = _ms(step, device, runs)
    return f"{ms:.1f} ms, {batch / ms * 1e3:.1f} segments/s{peak[0]}"


def _step(size: str, batch: int, dtype: torch.dtype, mode: str, device: torch.device) -> Callable[[], None]:
    config = SIZES[size]
    model = build_model(config).to(device)
    enhance = torch.compile(model) if mode == "compiled" else model
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    random = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, batch, config.segment_samples, generator=random).to(device)
    weights = LossWeights(metric=0)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        mag_BFT, pha_BFT = stft(clean + noise, config.spectral)
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            mag_BFT, pha_BFT = enhance(mag_BFT, pha_BFT)
        losses = spectral_losses(mag_BFT.float(), pha_BFT.float(), clean, config.spectral)
        weighted_total(losses, weights).backward()
        optimiser.step()

    return step


def _ms(work: Callable[[], object], device: torch.device, runs: int) -> float:
    """Median of three rounds of `runs` runs after two for warm-up; runs of one round overlap launches."""
    rounds = []
    for times in (2, runs, runs, runs):
        _wait(device)
        start = time.perf_counter()
        for _ in range(times):
            work()
        _wait(device)
        rounds.append((time.perf_counter() - start) / times * 1e3)
    return statistics.median(rounds[1:])


def _copy_bytes_a_ms(device: torch.device) -> float:
    source = torch.ones(2**28 if device.type == "cuda" else 2**24, device=device)
    target = torch.empty_like(source)
    return 2 * _size(source) / _ms(lambda: target.copy_(source), device, 10)


def _size(x: Tensor) -> int:
    return x.numel() * x.element_size()


@contextmanager
def _peak_memory(device: torch.device) -> Iterator[list[str]]:
    """Append the peak of allocated memory inside the block to a list; nothing on the CPU."""
    text = [""]
    _release()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        yield text
        if device.type == "cuda":
            text[0] = f", at most {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB"
    finally:
        torch.compiler.reset()


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


if __name__ == "__main__":
    sys.exit(main())
