"""Whether an operation runs compiled, and whether it saves intermediate values for gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def has_cpu_kernel(x: Tensor) -> bool:
    """Whether compiled CPU code handles `x`: on a CPU and not float64, since it computes in float32."""
    return x.device.type == "cpu" and x.dtype is not torch.float64


def needs_gradients(*tensors: Tensor | None) -> bool:
    """Whether gradients will be computed with respect to any of `tensors`."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
