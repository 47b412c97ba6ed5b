"""A model with compiled CPU kernels against the same in plain torch: forward pass, training step, attention.

python -m tests.benchmarks.bench_model [--size xs]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import ExitStack
from unittest.mock import patch

import torch
from torch import Tensor

from rwsa.kernels.attention import attend, attend_reference
from rwsa.kernels.deformable import deform_conv_reference
from rwsa.kernels.layout import SequenceAxis
from rwsa.kernels.scan import use_backend
from rwsa.losses import LossWeights, spectral_losses, weighted_total
from rwsa.models import SIZES, build_model
from rwsa.models.cost import cost
from rwsa.stft import stft
from tests.benchmarks.timing import median_seconds, seconds

FRAMES, BINS = 256, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="xs")
    size = parser.parse_args().size
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    model = build_model(SIZES[size])
    spectral, samples = model.config.spectral, model.config.segment_samples
    noisy, clean = torch.randn(1, samples), torch.randn(1, samples)

    def forward() -> None:
        with torch.inference_mode():
            model(*stft(noisy, spectral))

    def step() -> None:
        mag, pha = model(*stft(noisy, spectral))
        losses = spectral_losses(mag, pha, clean, spectral)
        weighted_total(losses, LossWeights(metric=0)).backward()
        model.zero_grad()

    for name, work in (("forward", forward), ("training step", step)):
        ours = median_seconds(work, 5)
        with use_backend("reference"):
            scan = seconds(work)
            plain = _with_torch_operations(lambda work=work: seconds(work))  # type: ignore[misc]
        print(
            f"{size} {name}, one segment: {ours:.2f} s; with the reference scan {scan:.1f} s,"
            f" {scan / ours:.1f}x; with torch's attention and grid_sample too {plain:.1f} s,"
            f" {plain / ours:.1f}x"
        )
    _print_lower_bound(cost(model).total)
    qkv = torch.randn(1, FRAMES, BINS, 48)
    for axis in SequenceAxis:
        _attention(qkv, axis)
    print(f"{torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.2f}")


def _print_lower_bound(operations: int, size: int = 1536) -> None:
    """Lower bound of the forward pass: its multiply-adds at the rate of a large matrix product."""
    a = torch.randn(size, size)
    rate = size**3 / median_seconds(lambda: a @ a, 9)
    print(
        f"lower bound of the forward pass: {operations / 1e9:.1f} G multiply-adds at the"
        f" {rate / 1e9:.0f} G/s of a large matrix product, {operations / rate:.2f} s"
    )


def _with_torch_operations(measure: Callable[[], float]) -> float:
    """`measure` with all compiled operations replaced by their torch versions."""
    with ExitStack() as stack:
        stack.enter_context(patch("rwsa.models.attention.attend", attend_reference))
        stack.enter_context(patch("rwsa.models.layers.deform_conv", deform_conv_reference))
        stack.enter_context(patch("rwsa.models.layers.has_dense_kernel", lambda _: False))
        return measure()


def _attention(qkv: Tensor, axis: SequenceAxis) -> None:
    with torch.inference_mode():
        ours = median_seconds(lambda: attend(qkv, 4, axis), 7)
        torchs = median_seconds(lambda: attend_reference(qkv, 4, axis), 3)
    print(
        f"attention along {axis.name.lower()}, [1, {FRAMES}, {BINS}, 16], 4 heads: {ours * 1e3:.1f} ms,"
        f" scaled_dot_product_attention {torchs * 1e3:.0f} ms, {torchs / ours:.1f}x"
    )


if __name__ == "__main__":
    main()
