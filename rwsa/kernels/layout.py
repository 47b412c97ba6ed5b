"""Tensors as the compiled loops read them: sequences along an axis, flat float32, padded to whole vectors."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from torch import Tensor


class SequenceAxis(IntEnum):
    """The axis of `[B, T, F, C]` along which sequences run."""

    TIME = 1
    FREQUENCY = 2


def as_sequences(x_BTFC: Tensor, axis: SequenceAxis) -> Tensor:
    """View a contiguous tensor as `[outer, length, inner, C]`, where length is the size of `axis`."""
    batch, frames, bins, channels = x_BTFC.shape
    if axis is SequenceAxis.TIME:
        return x_BTFC.view(batch, frames, bins, channels)
    return x_BTFC.view(batch * frames, bins, 1, channels)


def flat(x: Tensor) -> np.ndarray:
    """A tensor's elements as a one-dimensional array: a view where it is contiguous, else a copy."""
    return x.detach().contiguous().view(-1).numpy()
