"""Compiled loops of the depthwise deformable 3×3 convolution for the CPU, forward and backward.

Arrays are flat float32; x and out are `[B, T, F, C]`, offsets `[B, T, F, 18]`, weights `[9, W]`, where W is
C padded to whole vectors. x has one spare vector at its end, since the last position is read in whole
vectors.
"""

from __future__ import annotations

import numpy as np

from rwsa.kernels.simd import LANES, kernel, load, part_of_kernel, splat, store, total

TAPS = 9
_ZERO, _ONE = np.float32(0), np.float32(1)


@part_of_kernel()
def _corners(t, f, tap, offsets, at, shape, rows, shares):  # type: ignore[no-untyped-def]
    """The four positions around a displaced tap and their bilinear weights, 0 outside.

    rows: [4], row numbers of upper left, upper right, lower left and lower right; shares: [10], their four
    bilinear weights, the tap's offset down and right from the upper left, and per corner 1 inside or 0
    outside.
    """
    frames, bins = shape
    y = np.float32(t + tap // 3 - 1) + offsets[at + 2 * tap]
    x = np.float32(f + tap % 3 - 1) + offsets[at + 2 * tap + 1]
    top, left = np.floor(y), np.floor(x)
    down, right = y - top, x - left
    for corner in range(4):
        i, j = int(top) + corner // 2, int(left) + corner % 2
        inside = 0 <= i < frames and 0 <= j < bins
        rows[corner] = min(max(i, 0), frames - 1) * bins + min(max(j, 0), bins - 1)
        share = (down if corner // 2 else _ONE - down) * (right if corner % 2 else _ONE - right)
        shares[corner] = share if inside else _ZERO
        shares[6 + corner] = _ONE if inside else _ZERO
    shares[4], shares[5] = down, right


@kernel()
def deform_forward(x, offsets, weight, shape, out, first, last):  # type: ignore[no-untyped-def]
    """Convolve rows first…last-1 of `[B·T]`, written to `out`; shape: (T, F, C)."""
    frames, bins, channels = shape
    width = weight.size // TAPS
    rows, shares = np.empty(4, np.int64), np.empty(10, np.float32)
    line = np.empty(width, np.float32)
    for row in range(first, last):
        image = (row // frames) * frames * bins
        for f in range(bins):
            position = row * bins + f
            line[:] = _ZERO
            for tap in range(TAPS):
                _corners(row % frames, f, tap, offsets, position * 2 * TAPS, (frames, bins), rows, shares)
                at0, at1 = (image + rows[0]) * channels, (image + rows[1]) * channels
                at2, at3 = (image + rows[2]) * channels, (image + rows[3]) * channels
                s0, s1 = splat(shares[0]), splat(shares[1])
                s2, s3 = splat(shares[2]), splat(shares[3])
                for c in range(0, width, LANES):
                    value = s0 * load(x, at0 + c) + s1 * load(x, at1 + c)
                    value = value + s2 * load(x, at2 + c) + s3 * load(x, at3 + c)
                    store(line, c, load(line, c) + load(weight, tap * width + c) * value)
            for c in range(channels):
                out[position * channels + c] = line[c]


@kernel()
def deform_backward(x, offsets, weight, dout, shape, dx, doffsets, dweight, first, last):  # type: ignore[no-untyped-def]
    """Gradients for images first…last-1: doffsets is written, dx and dweight are added to.

    dout: [B, T, F, C]; dx has a spare vector at its end, as x.
    """
    frames, bins, channels = shape
    width = weight.size // TAPS
    rows, shares = np.empty(4, np.int64), np.empty(10, np.float32)
    line, keep = np.zeros(width, np.float32), np.zeros(width, np.float32)
    for row in range(first * frames, last * frames):
        image = (row // frames) * frames * bins
        for f in range(bins):
            position = row * bins + f
            for c in range(channels):
                keep[c] = dout[position * channels + c]
            for tap in range(TAPS):
                _corners(row % frames, f, tap, offsets, position * 2 * TAPS, (frames, bins), rows, shares)
                at0, at1 = (image + rows[0]) * channels, (image + rows[1]) * channels
                at2, at3 = (image + rows[2]) * channels, (image + rows[3]) * channels
                down, right = splat(shares[4]), splat(shares[5])
                up, left = splat(_ONE) - down, splat(_ONE) - right
                by_y, by_x = splat(_ZERO), splat(_ZERO)
                for c in range(0, width, LANES):
                    x0, x1 = load(x, at0 + c) * splat(shares[6]), load(x, at1 + c) * splat(shares[7])
                    x2, x3 = load(x, at2 + c) * splat(shares[8]), load(x, at3 + c) * splat(shares[9])
                    value = up * (left * x0 + right * x1) + down * (left * x2 + right * x3)
                    dweight_at = tap * width + c
                    store(dweight, dweight_at, load(dweight, dweight_at) + load(keep, c) * value)
                    dvalue = load(weight, dweight_at) * load(keep, c)
                    by_y = by_y + dvalue * (left * (x2 - x0) + right * (x3 - x1))
                    by_x = by_x + dvalue * (up * (x1 - x0) + down * (x3 - x2))
                    store(line, c, dvalue)
                doffsets[position * 2 * TAPS + 2 * tap] = total(by_y)
                doffsets[position * 2 * TAPS + 2 * tap + 1] = total(by_x)
                for corner in range(4):
                    if shares[corner] != _ZERO:
                        at, share = (image + rows[corner]) * channels, splat(shares[corner])
                        # The padding lanes add zeros to the next position.
                        for c in range(0, width, LANES):
                            store(dx, at + c, load(dx, at + c) + share * load(line, c))
