"""Random scan arguments in Mamba's ranges and several memory layouts, and comparison of results."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rwsa.kernels.scan import selective_scan

NAMES = ("u", "delta", "A", "B", "C", "D", "z")


@dataclass(frozen=True)
class Inputs:
    """Arguments of a scan, and the gradient of its output."""

    tensors: dict[str, Tensor]
    dy: Tensor
    reverse: bool = False

    def on(self, device: str) -> Inputs:
        return Inputs({n: x.to(device) for n, x in self.tensors.items()}, self.dy.to(device), self.reverse)

    def scanned(self, backend: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """y and all gradients; tensors keep their strides."""
        leaves = {name: x.to(dtype).requires_grad_() for name, x in self.tensors.items()}
        y = selective_scan(**leaves, reverse=self.reverse, backend=backend)
        gradients = torch.autograd.grad(y, list(leaves.values()), self.dy.to(dtype))
        return {"y": y.detach()} | {f"d{n}": g for n, g in zip(leaves, gradients, strict=True)}


def draw(
    *batch: int, length: int, channels: int, states: int = 4, gate: bool = True, reverse: bool = False
) -> Inputs:
    """Random inputs in Mamba's ranges, contiguous."""
    random = torch.Generator().manual_seed(hash((batch, length, channels, states)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64).float()

    tensors = {
        "u": normal(*batch, length, channels),
        "delta": torch.nn.functional.softplus(normal(*batch, length, channels) - 1),
        "A": -torch.exp(normal(channels, states)),
        "B": normal(*batch, length, states),
        "C": normal(*batch, length, states),
        "D": normal(channels),
    }
    if gate:
        tensors["z"] = 2 * normal(*batch, length, channels)
    return Inputs(tensors, normal(*batch, length, channels), reverse)


def lying_across(inputs: Inputs) -> Inputs:
    """The same values with the sequence axis third from last in memory, as time seen through `transpose`."""

    def across(x: Tensor) -> Tensor:
        return x.transpose(-3, -2).contiguous().transpose(-3, -2) if x.dim() > 2 else x

    tensors = {name: across(x) for name, x in inputs.tensors.items()}
    return Inputs(tensors, across(inputs.dy), inputs.reverse)


def strided(x: Tensor) -> Tensor:
    """The same values with gaps between them."""
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), torch.nan, dtype=x.dtype, device=x.device)
    wide[..., ::2] = x
    return wide[..., ::2]


def assert_agrees(inputs: Inputs, *, tolerance: float = 3e-5, backend: str = "cpu") -> None:
    """Compare errors relative to the largest value, or to 1 where a gradient's terms nearly cancel.

    With slowly decaying states, rounding errors of each step's exponential (1.2e-7) add up over 257 steps.
    """
    truth = inputs.scanned("reference", torch.float64)
    for name, value in inputs.scanned(backend).items():
        assert value.shape == truth[name].shape
        error = (value - truth[name]).abs().max() / truth[name].abs().max().clamp(min=1)
        assert error < tolerance, f"{name}: {error:.1e}"
