"""Tensors as compiled kernels read them: flat float32 arrays, the last axis in whole vectors."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from rwsa.kernels.simd import LANES


def in_vectors(count: int) -> int:
    """`count` in whole vectors."""
    return -(-count // LANES) * LANES


def flat(x: Tensor) -> np.ndarray:
    """A tensor's elements in one row, in place where they lie so."""
    return x.detach().contiguous().view(-1).numpy()


def spread(weight: Tensor, width: int, rows: int | None = None) -> np.ndarray:
    """Flat `[rows, width]`: the weight, and zeros beyond it."""
    matrix = np.atleast_2d(weight.detach().numpy())
    wide = np.zeros((rows or matrix.shape[0], width), np.float32)
    wide[: matrix.shape[0], : matrix.shape[1]] = matrix
    return wide.reshape(-1)
