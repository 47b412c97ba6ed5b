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


def runs_directly(*tensors: Tensor | None) -> bool:
    """Whether compiled code may be called without a registered operator: nothing differentiates or traces it.

    A registered operator costs more per call, and its first call imports torch's compiler, which takes longer
    than enhancing a short file.
    """
    return not needs_gradients(*tensors) and not torch.compiler.is_compiling()
