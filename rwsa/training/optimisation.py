"""What the generator's and the discriminator's updates share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def update(optimiser: torch.optim.Optimizer, loss: Tensor, max_norm: float | None) -> Tensor:
    """One step down the gradient of `loss`; returns the gradient's norm before it was clipped."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = clip(optimiser, max_norm)
    optimiser.step()
    return norm


def clip(optimiser: torch.optim.Optimizer, max_norm: float | None) -> Tensor:
    """Scale gradients down to `max_norm`, if there is one; returns their norm before that."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    return nn.utils.clip_grad_norm_(parameters, max_norm or math.inf)
