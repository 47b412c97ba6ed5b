"""Tensors as the compiled loops read them: sequences along an axis, flat float32, padded to whole vectors."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from torch import Tensor

from rwsa.kernels.simd import LANES


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


def padded_size(count: int) -> int:
    """`count` rounded up to a multiple of LANES."""
    return -(-count // LANES) * LANES


def flat(x: Tensor) -> np.ndarray:
    """A tensor's elements as a one-dimensional array: a view where it is contiguous, else a copy."""
    return x.detach().contiguous().view(-1).numpy()


def zero_padded(weight: Tensor, width: int, rows: int | None = None) -> np.ndarray:
    """A weight padded with zeros to `[rows, width]`, as a flat array."""
    matrix = np.atleast_2d(weight.detach().numpy())
    padded = np.zeros((rows or matrix.shape[0], width), np.float32)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    return padded.reshape(-1)
