"""The CPU scan against a plain loop, at the shape of xs's first level.

python -m tests.benchmarks.bench_scan
"""

from __future__ import annotations

import os
from functools import partial

import torch

from rwsa.kernels.scan import selective_scan
from tests.benchmarks.timing import median_seconds

SEQUENCES, LENGTH, CHANNELS, STATES = 128, 256, 64, 16


def main() -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    inputs = _inputs()
    weight = torch.randn(SEQUENCES, LENGTH, CHANNELS)

    def forward(backend: str) -> None:
        with torch.no_grad():
            selective_scan(*inputs, backend=backend)

    def both(backend: str) -> None:
        torch.autograd.grad(selective_scan(*inputs, backend=backend), inputs, weight)

    for name, work in (("forward", forward), ("forward + backward", both)):
        ours, loop = (
            1e3 * median_seconds(partial(work, backend), runs)
            for backend, runs in (("cpu", 15), ("reference", 3))
        )
        print(f"scan {name}: {ours:.1f} ms, plain loop {loop:.0f} ms, {loop / ours:.0f}x faster")
    print(f"shape {SEQUENCES}x{LENGTH}x{CHANNELS}x{STATES}, {torch.get_num_threads()} threads", end=", ")
    print(f"load average {os.getloadavg()[0]:.2f}")


def _inputs() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    sequence = (SEQUENCES, LENGTH)
    tensors = [
        normal(*sequence, CHANNELS),
        torch.nn.functional.softplus(normal(*sequence, CHANNELS) - 3),
        -torch.exp(0.5 * normal(CHANNELS, STATES)),
        normal(*sequence, STATES),
        normal(*sequence, STATES),
        normal(CHANNELS),
        normal(*sequence, CHANNELS),
    ]
    return [tensor.requires_grad_() for tensor in tensors]


if __name__ == "__main__":
    main()
