"""Compiled loops between `[B, T, F, C]` and channel planes (see `planes`)."""

from __future__ import annotations

import numpy as np

from rwsa.kernels.simd import LANES, kernel

PAIR = 2 * LANES
_ZERO = np.float32(0)


@kernel()
def planes_from_rows(x, shape, planes, start, first, last):  # type: ignore[no-untyped-def]
    """Copy rows first…last-1 of `[B·T]` of x into the planes that begin at `start`."""
    channels, bins, pitch = shape.channels, shape.bins, shape.pitch
    for row in range(first, last):
        for c in range(channels):
            at, source = start + (row * channels + c) * pitch, row * bins * channels + c
            for f in range(bins):
                planes[at + f] = x[source + f * channels]
            for f in range(bins, pitch):
                planes[at + f] = _ZERO


@kernel()
def rows_from_planes(planes, start, shape, out, first, last):  # type: ignore[no-untyped-def]
    """Copy rows first…last-1 of `[B·T]` of the planes that begin at `start` into out."""
    channels, bins, pitch = shape.channels, shape.bins, shape.pitch
    for row in range(first, last):
        for c in range(channels):
            at, target = start + (row * channels + c) * pitch, row * bins * channels + c
            for f in range(bins):
                out[target + f * channels] = planes[at + f]
