"""Batch normalization over the clips of all ranks, on any device.

torch's SyncBatchNorm runs on GPUs only, and training with several CPU workers must equal training with one.

Legend: B batch, T frames, F frequency bins, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

_MOMENTUM, _EPSILON = 0.1, 1e-5


class GlobalBatchNorm(nn.Module):
    """Batch normalization of `[B, T, F, C]` over all but the channels.

    In training the statistics are those of the clips of all ranks, which must hold equally many. With
    gradient accumulation they are those of each part.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x_BTFC: Tensor) -> Tensor:
        if self.training:
            mean, variance = self._statistics(x_BTFC)
        else:
            mean, variance = self.running_mean, self.running_var
        scale = self.weight * torch.rsqrt(variance + _EPSILON)
        return torch.addcmul(self.bias - mean * scale, x_BTFC, scale)

    def _statistics(self, x_BTFC: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of the global batch; updates the running ones."""
        rows = x_BTFC.flatten(0, -2)
        if rows.dtype in (torch.float16, torch.bfloat16):
            rows = rows.float()
        mean = _mean_over_ranks(rows.mean(dim=0))
        variance = _mean_over_ranks((rows - mean).square().mean(dim=0))
        with torch.no_grad():
            count = len(rows) * (dist.get_world_size() if dist.is_initialized() else 1)
            unbiased = variance * (count / max(count - 1, 1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), _MOMENTUM)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), _MOMENTUM)
        return mean, variance


def _mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over all ranks, through which gradients of all ranks flow; alone, the identity."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return values
    total: Tensor = _SumOverRanks.apply(values)  # type: ignore[no-untyped-call]
    return total / dist.get_world_size()


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
