"""Compiled loops of the depthwise deformable 3×3 convolution on channel planes, for the CPU.

An offset d within ±1 leaves a tap between its own position and the next ones, so bilinear sampling weighs
nine positions, each by the product of two hats: max(0, -d), 1 - |d| and max(0, d) for the position before,
its own and the one after. All taps together read 5×5 positions, at the same places for all bins, so that
nothing is gathered.

Legend: B batch, C channels, T frames, P pitch (see `planes`).
"""

from __future__ import annotations

import numpy as np

from rwsa.kernels.deformable_taps import SHARES, SPAN, TAPS, add_gradients, sample
from rwsa.kernels.simd import (
    LANES,
    kernel,
    load,
    maximum,
    part_of_kernel,
    splat,
    store,
    total,
    where_positive,
)

_REACH = SPAN // 2
_ZERO, _ONE = np.float32(0), np.float32(1)


@part_of_kernel()
def _hats(offset, hats, at):  # type: ignore[no-untyped-def]
    """Weights of the position before, at, and after a tap; three vectors from `at` on."""
    before, after = maximum(splat(_ZERO) - offset, splat(_ZERO)), maximum(offset, splat(_ZERO))
    store(hats, at, before)
    store(hats, at + LANES, splat(_ONE) - before - after)
    store(hats, at + 2 * LANES, after)


@part_of_kernel()
def _shares(offsets, at, pitch, hats, shares):  # type: ignore[no-untyped-def]
    """Bilinear weights of 16 bins: `[tap, 3, 3]` vectors; offsets begin at `at`, `pitch` floats apart."""
    for tap in range(TAPS):
        _hats(load(offsets, at + 2 * tap * pitch), hats, 0)
        _hats(load(offsets, at + (2 * tap + 1) * pitch), hats, 3 * LANES)
        for j in range(3):
            for k in range(3):
                share = load(hats, j * LANES) * load(hats, (3 + k) * LANES)
                store(shares, (tap * 9 + j * 3 + k) * LANES, share)


@part_of_kernel()
def _rows(t, frames, at, distance, rows, inside):  # type: ignore[no-untyped-def]
    """Where the rows around frame t begin, and whether they are frames; `at`: the first bin of row t."""
    for r in range(SPAN):
        other = min(max(t + r - _REACH, 0), frames - 1)
        rows[r] = at + (other - t) * distance - _REACH
        inside[r] = _ONE if other == t + r - _REACH else _ZERO


@kernel()
def deform_forward(  # type: ignore[no-untyped-def]
    x, begin, offsets, offsets_begin, weight, shape, out, out_begin, first, last
):
    """Convolve rows first…last-1 of `[B·T]` of the planes x.

    Args:
        x: `[B, T, C, P]`, zero beyond the last bin, begins at `begin`.
        offsets: `[B, T, 18, P]`, each tap's along T and along F, within ±1; begin at `offsets_begin`.
        weight: `[C, 9]`.
        shape: `PlaneShape` of x.
        out: `[B, T, C, P]`, begins at `out_begin`; beyond the last bin it is not zero.
    """
    frames, channels, pitch = shape.frames, shape.channels, shape.pitch
    hats, shares = np.empty(6 * LANES, np.float32), np.empty(SHARES * LANES, np.float32)
    rows, inside = np.empty(SPAN, np.int64), np.empty(SPAN, np.float32)
    for row in range(first, last):
        t = row % frames
        for f in range(0, shape.bins, LANES):
            _shares(offsets, offsets_begin + row * 2 * TAPS * pitch + f, pitch, hats, shares)
            for c in range(channels):
                _rows(t, frames, begin + (row * channels + c) * pitch + f, channels * pitch, rows, inside)
                value = sample(weight, c * TAPS, shares, x, rows, inside)
                store(out, out_begin + (row * channels + c) * pitch + f, value)


@kernel()
def deform_backward(  # type: ignore[no-untyped-def]
    x, begin, offsets, offsets_begin, weight, dout, dout_begin, shape, dx, doffsets, dweight, first, last
):
    """Gradients for images first…last-1; other arguments as in `deform_forward`.

    Args:
        dout: as `out` there, zero beyond the last bin.
        dx: as x, added to.
        doffsets: as offsets, written.
        dweight: `[C, 9]`, added to.
    """
    frames, channels, pitch = shape.frames, shape.channels, shape.pitch
    hats, shares = np.empty(6 * LANES, np.float32), np.empty(SHARES * LANES, np.float32)
    rows, inside = np.empty(SPAN, np.int64), np.empty(SPAN, np.float32)
    dshares = np.empty(SHARES * LANES, np.float32)
    lanes = np.zeros(dweight.size * LANES, np.float32)
    for row in range(first * frames, last * frames):
        t = row % frames
        for f in range(0, shape.bins, LANES):
            offsets_at = offsets_begin + row * 2 * TAPS * pitch + f
            _shares(offsets, offsets_at, pitch, hats, shares)
            dshares[:] = _ZERO
            for c in range(channels):
                slope = load(dout, dout_begin + (row * channels + c) * pitch + f)
                _rows(t, frames, begin + (row * channels + c) * pitch + f, channels * pitch, rows, inside)
                add_gradients(slope, weight, c * TAPS, shares, x, rows, inside, dshares, dx, lanes)
            for tap in range(TAPS):
                _offset_gradients(offsets, offsets_at + 2 * tap * pitch, pitch, hats, dshares, tap, doffsets)
    for i in range(dweight.size):
        dweight[i] += total(load(lanes, i * LANES))


@part_of_kernel()
def _offset_gradients(offsets, at, pitch, hats, dshares, tap, doffsets):  # type: ignore[no-untyped-def]
    """Gradients of a tap's two offsets, at `at` and `pitch` after it, from those of its bilinear weights.

    A hat's slope is that of the side on which the offset lies.
    """
    down, right = load(offsets, at), load(offsets, at + pitch)
    _hats(down, hats, 0)
    _hats(right, hats, 3 * LANES)
    by_down, by_right = splat(_ZERO), splat(_ZERO)
    own = tap * 9 * LANES
    for i in range(3):
        column, line = own + i * LANES, own + 3 * i * LANES
        above, middle, below = (
            load(dshares, column),
            load(dshares, column + 3 * LANES),
            load(dshares, column + 6 * LANES),
        )
        rise = where_positive(splat(_ZERO) - down, middle - above, below - middle)
        by_down = by_down + load(hats, (3 + i) * LANES) * rise
        left, centre, after = (
            load(dshares, line),
            load(dshares, line + LANES),
            load(dshares, line + 2 * LANES),
        )
        rise = where_positive(splat(_ZERO) - right, centre - left, after - centre)
        by_right = by_right + load(hats, i * LANES) * rise
    store(doffsets, at, by_down)
    store(doffsets, at + pitch, by_right)
