"""Channel planes: `[B, T, C, P]`, in which a vector holds consecutive frequency bins of one channel.

Convolutions fill vectors this way at any number of channels. A row of F bins is padded with zeros to whole
pairs of vectors, and by one vector more, so that a convolution reads zeros beyond both ends: P floats in all.
One vector of zeros precedes the first row.

Legend: B batch, C channels, T frames, F frequency bins, P pitch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rwsa.kernels.simd import LANES

PAIR = 2 * LANES


class PlaneShape(NamedTuple):
    """Sizes of channel planes."""

    frames: int
    channels: int
    bins: int
    width: int  # F padded to whole pairs of vectors
    pitch: int


def plane_shape(x_BTFC: Tensor) -> PlaneShape:
    _, frames, bins, channels = x_BTFC.shape
    width = -(-bins // PAIR) * PAIR
    return PlaneShape(frames, channels, bins, width, width + LANES)


def plane_size(rows: int, shape: PlaneShape) -> int:
    """Floats of the planes of `rows` rows (B · T)."""
    return rows * shape.channels * shape.pitch


def starts_of_planes(count: int, rows: int, shape: PlaneShape) -> np.ndarray:
    """Where each of `count` sets of planes begins, of `rows` (B · T) rows each."""
    return LANES + np.arange(count) * plane_size(rows, shape)


def new_planes(count: int, rows: int, shape: PlaneShape) -> tuple[np.ndarray, np.ndarray]:
    """Space for `count` sets of planes in one array, and where each begins."""
    planes = torch.empty(LANES + count * plane_size(rows, shape)).numpy()  # which is aligned to whole vectors
    starts = starts_of_planes(count, rows, shape)
    for start in starts:
        planes[start - LANES : start] = 0
    return planes, starts


def to_planes(x_BTFC: Tensor, planes: np.ndarray, start: int) -> None:
    """Copy a contiguous tensor into planes."""
    view, bins = _view(planes, start, x_BTFC), x_BTFC.shape[2]
    view[..., :bins].copy_(x_BTFC.detach().transpose(2, 3))
    view[..., bins:] = 0


def from_planes(planes: np.ndarray, start: int, x_BTFC: Tensor) -> None:
    """Copy planes into a tensor."""
    x_BTFC.copy_(_view(planes, start, x_BTFC)[..., : x_BTFC.shape[2]].transpose(2, 3))


def _view(planes: np.ndarray, start: int, x_BTFC: Tensor) -> Tensor:
    """The planes of a tensor, `[B, T, C, P]`."""
    shape = plane_shape(x_BTFC)
    rows = x_BTFC.shape[:2]
    part = planes[start : start + plane_size(rows.numel(), shape)]
    return torch.from_numpy(part).view(*rows, shape.channels, shape.pitch)
