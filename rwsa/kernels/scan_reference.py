"""The selective scan as a plain loop over time: slow, differentiable, any dtype; the definition."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def selective_scan_reference(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None, reverse: bool
) -> Tensor:
    """See `rwsa.kernels.scan.selective_scan`; accepts the same shapes."""
    if reverse:
        u, delta, B, C = (x.flip(-2) for x in (u, delta, B, C))
    # unbind rather than select, whose gradient is as large as the whole sequence at every step.
    decay = torch.exp(delta.unsqueeze(-1) * A).unbind(-3)
    drive = ((delta * u).unsqueeze(-1) * B.unsqueeze(-2)).unbind(-3)
    state = torch.zeros_like(decay[0])
    outputs = []
    for decay_t, drive_t, C_t in zip(decay, drive, C.unbind(-2), strict=True):
        state = decay_t * state + drive_t
        outputs.append((state * C_t.unsqueeze(-2)).sum(-1))
    y = torch.stack(outputs, dim=-2) + D * u
    if reverse:
        y = y.flip(-2)
    return y if z is None else y * F.silu(z)
