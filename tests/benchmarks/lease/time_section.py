"""The training step: eager, graph, compiled and straightforward; its parts, memory and idle share."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from rwsa.kernels.dispatch import float32_products
from rwsa.kernels.scan import missing_backends, use_backend
from rwsa.losses import LossWeights, spectral_losses, weighted_total
from rwsa.models import SIZES, build_model
from rwsa.stft import stft
from rwsa.training.optimiser import OptimiserConfig, adamw, clip
from tests.benchmarks.bench_gpu import _copy_bytes_a_ms, _ms, _release
from tests.benchmarks.lease.machine import Section, start
from tests.benchmarks.lease.straightforward import straightforward
from tests.benchmarks.step_counts import StepCounts, count_step


def main() -> int:
    section = start("time")
    bandwidth = section.results.measure(
        "bandwidth of a copy", lambda: _copy_bytes_a_ms(section.device) / 1e6, "GB/s"
    )
    first = (section.size, 8 if section.on_gpu else 1)
    _time(section, *first, "bfloat16", "straightforward", bandwidth)
    for precision, mode in itertools.product(("bfloat16", "float32"), _modes(section)):
        _time(section, *first, precision, mode, bandwidth)
    if "mamba_ssm" not in missing_backends(section.device):
        with use_backend("mamba_ssm"):
            _time(section, *first, "bfloat16", "mamba-ssm's scan", bandwidth)
    if section.on_gpu:
        for size, batch in (("xs", 32), ("m", 8), ("xs", 1), ("m", 1), ("xs", 2), ("m", 2), ("m", 32)):
            for mode in ("eager", "compiled"):
                _time(section, size, batch, "bfloat16", mode, bandwidth)
    return 1 if section.results.failed else 0


def _modes(section: Section) -> tuple[str, ...]:
    return ("eager", "graph", "compiled", "tf32") if section.on_gpu else ("eager",)


class Step:
    """The generator's training step on random signals; `compiled` and `graph` are modes."""

    def __init__(self, size: str, batch: int, precision: str, mode: str, device: torch.device) -> None:
        config = SIZES[size]
        self._half = precision == "bfloat16"
        self._precise = mode != "tf32" and not self._half
        self._device, self._mode, self._spectral = device, mode, config.spectral
        random = torch.Generator().manual_seed(0)
        clean, noise = torch.randn(2, batch, config.segment_samples, generator=random).to(device)
        self._clean, self._spectrum = clean, stft(clean + noise, config.spectral)
        model = build_model(config).to(device)
        self._optimiser = adamw(model, OptimiserConfig())
        self._enhance: Any = model
        if mode == "compiled":
            self._enhance = torch.compile(model)
        if mode == "graph":
            with self._multiplying():
                self._enhance = torch.cuda.make_graphed_callables(model, self._spectrum)

    @contextmanager
    def _multiplying(self) -> Iterator[None]:
        autocast = torch.autocast(
            self._device.type, torch.bfloat16, enabled=self._half, cache_enabled=self._mode != "graph"
        )
        plain = straightforward() if self._mode == "straightforward" else nullcontext()
        with plain, float32_products(self._device, tf32=not self._precise), autocast:
            yield

    def forward(self) -> Tensor:
        """The loss."""
        with self._multiplying():
            mag_BFT, pha_BFT = self._enhance(*self._spectrum)
        losses = spectral_losses(mag_BFT.float(), pha_BFT.float(), self._clean, self._spectral)
        return weighted_total(losses, LossWeights(metric=0))

    def backward(self) -> None:
        """Forward and backward pass."""
        self._optimiser.zero_grad(set_to_none=True)
        self.forward().backward()

    def whole(self) -> None:
        """All of it."""
        self.backward()
        clip(self._optimiser, None)
        self._optimiser.step()


def _time(
    section: Section, size: str, batch: int, precision: str, mode: str, bandwidth_gb_s: float | None
) -> None:
    results, device, runs = section.results, section.device, 10 if section.on_gpu else 1
    title = f"{size} at {batch}, {precision}, {mode}"
    counts = _counted(size, batch)
    # In float32, at the bandwidth of a copy; half of that is the least in bfloat16.
    floor = counts.moved / bandwidth_gb_s / 1e6 if counts and bandwidth_gb_s else None
    steps: list[Step] = []

    def first() -> float:
        started = time.perf_counter()
        steps.append(Step(size, batch, precision, mode, device))
        steps[0].whole()
        return time.perf_counter() - started

    _release()
    if section.on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    if results.measure(f"{title}: start and first step", first, "s", needs_seconds=5) is None:
        return
    works: dict[str, Callable[[], object]] = {"step": steps[0].whole}
    if mode in ("eager", "graph"):
        works |= {"forward": steps[0].forward, "forward and backward": steps[0].backward}
    for name, work in works.items():
        predicted = floor if name == "step" and precision == "float32" else None
        results.measure(f"{title}: {name}", partial(_ms, work, device, runs), "ms", predicted=predicted)
    if section.on_gpu:
        saved = counts.saved / 1e9 if counts and precision == "float32" else None
        results.measure(
            f"{title}: memory", lambda: torch.cuda.max_memory_allocated(device) / 1e9, "GB", predicted=saved
        )
        if mode == "eager":
            results.measure(f"{title}: waits for the GPU", partial(_waits, steps[0].whole), "", most=0)
        results.measure(f"{title}: idle", partial(_idle_share, steps[0].whole, device), "share of the step")
    steps.clear()
    works.clear()
    _release()
    torch.compiler.reset()


def _counted(size: str, batch: int) -> StepCounts | None:
    return count_step(size, batch) if find_spec("triton") else None


def _waits(work: Callable[[], object]) -> float:
    """0; raises where a step waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return 0


def _idle_share(work: Callable[[], object], device: torch.device) -> float:
    """The share of a step in which no kernel runs."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        start = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    busy = sum(event.self_device_time_total for event in profiled.key_averages()) / 1e6
    return 1 - busy / seconds


if __name__ == "__main__":
    sys.exit(main())
