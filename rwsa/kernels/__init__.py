"""The model's inner operations: each in torch, for any device, and compiled for the CPU."""

from __future__ import annotations

import torch
from torch import Tensor


def is_compiled_for(x: Tensor) -> bool:
    """Whether the compiled form takes `x`: on a CPU, but not in float64, which would lose its precision."""
    return x.device.type == "cpu" and x.dtype is not torch.float64


def needs_gradients(*tensors: Tensor | None) -> bool:
    """Whether an operation on `tensors` must keep what its gradients will want."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
