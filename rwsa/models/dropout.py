"""Dropout whose masks depend on the clip and the training step, not on the rank or the rest of the batch.

Legend: B clips.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A generator per clip; the masks of a forward pass are drawn from it in the order of the layers.
ClipGenerators = list[torch.Generator]


def clip_generators(seeds_B: Tensor | None, device: torch.device) -> ClipGenerators | None:
    """The generators of a forward pass; None for no dropout."""
    if seeds_B is None:
        return None
    return [torch.Generator(device).manual_seed(seed) for seed in seeds_B.tolist()]


def drop(x_B: Tensor, share: float, generators: ClipGenerators | None) -> Tensor:
    """`x_B` `[B, …]` with a share of its values set to 0 and the others scaled by 1 / (1 − share)."""
    if generators is None:
        return x_B
    masks = [torch.empty_like(x, dtype=torch.bool) for x in x_B]
    for mask, generator in zip(masks, generators, strict=True):
        mask.bernoulli_(1 - share, generator=generator)
    return x_B * torch.stack(masks) / (1 - share)
