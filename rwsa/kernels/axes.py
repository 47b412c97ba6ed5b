"""The two axes of `[B, T, F, C]` that sequences run along, and how their lines lie in memory."""

from __future__ import annotations

from enum import IntEnum

from torch import Tensor


class Axis(IntEnum):
    """The axis of `[B, T, F, C]` along which a sequence runs."""

    TIME = 1
    FREQUENCY = 2


def lines(x_BTFC: Tensor, axis: Axis) -> Tensor:
    """A contiguous tensor seen as `[outer, length, inner, C]`: the second axis is `axis`."""
    batch, frames, bins, channels = x_BTFC.shape
    if axis is Axis.TIME:
        return x_BTFC.view(batch, frames, bins, channels)
    return x_BTFC.view(batch * frames, bins, 1, channels)
