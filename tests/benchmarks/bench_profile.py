"""Where the time of a training step goes, by kind of operation, beside two lower bounds of the same machine.

python -m tests.benchmarks.bench_profile [--sizes nano xs] [--segments N]

Forward pass, loss, backward pass and optimiser are timed without the profiler (CPU seconds of one thread,
the least of several runs); torch's profiler then divides each among kinds of operations by their self time.
Lower bounds:
- multiply-adds, at the rate of a large matrix product: those of `rwsa.models.cost`, the backward pass twice
  those of the forward pass;
- bytes, at the rate of a large copy (read and written bytes count alike): every layer reads its input and
  weights and writes its output once; the backward pass reads input, weights and the output's gradient, and
  writes the gradients of input and weights. AdamW reads four values per weight and writes three.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.losses import LossWeights, spectral_losses, weighted_total
from rwsa.models import SIZES, Network, build_model
from rwsa.models.attention import AxialAttention
from rwsa.models.cost import layer_calls
from rwsa.models.layers import DeformableConv
from rwsa.models.mamba import BiMamba
from rwsa.stft import stft
from rwsa.training.optimiser import OptimiserConfig, adamw, clip
from tests.benchmarks.timing import cpu_seconds

PHASES = ("forward", "loss", "backward", "optimiser")
# The first pattern found in an operation's name decides; `Python` is what the profiler does not see.
_KINDS = {
    "mixer": r"mixer|scan|mlstm|lstm",
    "attention": r"attention|attend",
    "deformable": r"deform|grid_sampler",
    "convolution": r"conv|dense|encoder|decoder|pixel_(un)?shuffle|patch",
    "norm, activation": r"norm|prelu|hardswish|sigmoid|silu|softplus|clamp|hardtanh|atan2|batch_norm",
    "projection": r"addmm|::mm|bmm|linear|matmul|einsum",
    "STFT": r"fft|stft|polar|complex|angle|frame",
    "optimiser": r"optimi|adam|foreach|lerp_|addcdiv|addcmul",
    "copy, view": r"copy_|clone|contiguous|::to|cat|empty|fill_|zero|pad|resize|index|select|narrow|slice"
    r"|stack|view|transpose|permute|detach|alias|lift|strided|unfold|flatten|expand|squeeze|::t$",
}
# The kinds of the layers in `layer_calls`; all others are convolutions.
_LAYERS: Mapping[type[nn.Module], str] = {
    AxialAttention: "attention",
    BiMamba: "mixer",
    DeformableConv: "deformable",
    nn.InstanceNorm2d: "norm, activation",
    nn.PReLU: "norm, activation",
}
RUNS, PROFILES = 5, 3


@dataclass
class Bound:
    """Multiply-adds and float32 elements moved, of one step."""

    multiply_adds: float = 0
    elements: float = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["nano", "xs"])
    parser.add_argument("--segments", type=int, help="segments per step (default: nano 4, others 1)")
    parser.add_argument("--others", type=int, default=6, metavar="N", help="how many others to list")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    products, copied = _product_rate(), _copy_rate()
    print(
        f"one thread: {products / 1e9:.1f} G multiply-adds/s in a large matrix product,"
        f" {copied / 1e9:.1f} GB/s read and written by a large copy; load average {os.getloadavg()[0]:.2f}"
    )
    for size in arguments.sizes:
        segments = arguments.segments or (4 if size == "nano" else 1)
        _profile(size, segments, products, copied, arguments.others)
    again = _product_rate()
    print(f"at the end: {again / 1e9:.1f} G multiply-adds/s; load average {os.getloadavg()[0]:.2f}")


def _profile(size: str, segments: int, products: float, copied: float, others: int) -> None:
    model = build_model(size)
    step = Step(model, segments)
    seconds = step.seconds()
    shares = step.shares()
    table: dict[str, dict[str, float]] = {}
    for phase in PHASES:
        whole = shares[phase].total()
        for name, share in shares[phase].items():
            kinds = table.setdefault(_kind(name), dict.fromkeys(PHASES, 0.0))
            kinds[phase] += seconds[phase] * share / whole
    bounds = _bounds(model, segments)
    duration = step.samples / SAMPLE_RATE_HZ
    print(f"\n{size}, step of {segments} segment(s) of {duration:.2f} s, milliseconds:")
    headings = (*PHASES, "all", "products", "bytes", "× larger")
    print(f"{'':18}" + "".join(f"{heading:>11}" for heading in headings))
    rows = sorted(table, key=lambda kind: -sum(table[kind].values()))
    for kind in rows:
        print(f"{kind:18}" + _row(table[kind], bounds.get(kind), products, copied))
    every = Bound(
        sum(bound.multiply_adds for bound in bounds.values()),
        sum(bound.elements for bound in bounds.values()),
    )
    print(f"{'all':18}" + _row(seconds, every, products, copied))
    for name, milliseconds in _largest_others(shares, seconds, others):
        print(f"  other: {name} {milliseconds:.1f} ms")


def _row(values: Mapping[str, float], bound: Bound | None, products: float, copied: float) -> str:
    whole = sum(values.values())
    text = "".join(f"{value * 1e3:11.1f}" for value in (*(values[phase] for phase in PHASES), whole))
    if bound is None:
        return text
    floors = bound.multiply_adds / products, bound.elements * 4 / copied
    return text + "".join(f"{floor * 1e3:11.1f}" for floor in floors) + f"{whole / max(floors):10.1f}×"


class Step:
    """A training step as its four phases."""

    def __init__(self, model: Network, segments: int) -> None:
        self.model, self.spectral = model, model.config.spectral
        self.samples = model.config.segment_samples
        self.noisy, self.clean = torch.randn(segments, self.samples), torch.randn(segments, self.samples)
        self.optimiser = adamw(model, OptimiserConfig())
        self.values: dict[str, Any] = {}

    def run(self, phase: str) -> None:
        match phase:
            case "forward":
                self.values["spectrum"] = self.model(*stft(self.noisy, self.spectral))
            case "loss":
                mag, pha = self.values["spectrum"]
                losses = spectral_losses(mag, pha, self.clean, self.spectral)
                self.values["loss"] = weighted_total(losses, LossWeights(metric=0))
            case "backward":
                self.values["loss"].backward()
            case _:
                clip(self.optimiser, None)
                self.optimiser.step()
                self.optimiser.zero_grad(set_to_none=True)

    def seconds(self) -> dict[str, float]:
        """CPU seconds of each phase, the least of several runs after one that warms up."""
        runs = []
        for _ in range(RUNS + 1):
            runs.append({phase: cpu_seconds(lambda phase=phase: self.run(phase)) for phase in PHASES})  # type: ignore[misc]
        return {phase: min(run[phase] for run in runs[1:]) for phase in PHASES}

    def shares(self) -> dict[str, Counter[str]]:
        """Self time of each operation in microseconds, by phase, in the quickest of several runs."""
        runs = [{phase: self._profiled(phase) for phase in PHASES} for _ in range(PROFILES)]
        return {phase: min((run[phase] for run in runs), key=Counter.total) for phase in PHASES}

    def _profiled(self, phase: str) -> Counter[str]:
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
            start = time.perf_counter()
            self.run(phase)
            microseconds = 1e6 * (time.perf_counter() - start)
        counted: Counter[str] = Counter()
        for event in profiler.key_averages():
            counted[event.key] += round(event.self_cpu_time_total)
        counted["Python"] = max(0, round(microseconds) - counted.total())
        return counted


def _bounds(model: Network, segments: int) -> dict[str, Bound]:
    bounds: dict[str, Bound] = {}
    for layer, cost, read, written, weights in layer_calls(model):
        bound = bounds.setdefault(_LAYERS.get(type(layer), "convolution"), Bound())
        bound.multiply_adds += segments * 3 * cost.total
        forward, backward = read + written, 2 * read + written
        bound.elements += segments * (forward + backward) + 3 * weights
    bounds["optimiser"] = Bound(elements=7 * sum(weight.numel() for weight in model.parameters()))
    return bounds


def _kind(name: str) -> str:
    if name in (*_KINDS, "Python"):
        return name
    found = (kind for kind, pattern in _KINDS.items() if re.search(pattern, name.lower()))
    return next(found, "other")


def _largest_others(
    shares: Mapping[str, Counter[str]], seconds: Mapping[str, float], count: int
) -> list[tuple[str, float]]:
    others: dict[str, float] = {}
    for phase in PHASES:
        for name, share in shares[phase].items():
            if _kind(name) == "other":
                milliseconds = 1e3 * seconds[phase] * share / shares[phase].total()
                others[name] = others.get(name, 0.0) + milliseconds
    return sorted(others.items(), key=lambda item: -item[1])[:count]


def _product_rate(size: int = 1536) -> float:
    a = torch.randn(size, size)
    return size**3 / _least(lambda: a @ a)


def _copy_rate(elements: int = 1 << 25) -> float:
    source, target = torch.zeros(elements), torch.zeros(elements)
    return 2 * 4 * elements / _least(lambda: target.copy_(source))


def _least(work: Callable[[], object]) -> float:
    return min(cpu_seconds(work) for _ in range(RUNS))


if __name__ == "__main__":
    main()
