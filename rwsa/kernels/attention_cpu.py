"""Compiled loops of self-attention on a CPU: forward and backward over a range of sequences.

A sequence is one (outer, inner) pair of `[outer, length, inner, channel]`, as in the scan, so that time
and frequency are attended where they lie. The heads of this network are 4 to 12 wide, too narrow for
matrix products: instead, LANES queries (or keys) stand in the lanes of a vector and the others pass by,
one at a time. A head's scores against LANES queries stay in the first cache.

Legend: S sequences, L length, H heads, W width of a head, P its width in whole fours.
"""

from __future__ import annotations

import numpy as np

from rwsa.kernels.simd import (
    LANES,
    LN_2,
    LOG2_E,
    broadcast,
    exp2,
    kernel,
    load,
    maximum,
    part_of_kernel,
    splat,
    store,
)

_ZERO, _ONE = np.float32(0), np.float32(1)
_LEAST = np.float32(-1e30)
_FOUR = 4 * LANES


@part_of_kernel()
def _take_rows(source, begin, stride, length, width, factor, rows):  # type: ignore[no-untyped-def]
    """`rows` [P/4, L, 4] of `width` floats that lie `stride` apart from `begin` on, times `factor`."""
    for i in range(length):
        for d in range(width):
            rows[(d // 4 * length + i) * 4 + d % 4] = source[begin + i * stride + d] * factor


@part_of_kernel()
def _take_lanes(source, begin, stride, first, length, width, factor, lanes):  # type: ignore[no-untyped-def]
    """`lanes` [W, LANES] of rows `first` on, the last row again beyond the end."""
    for lane in range(LANES):
        at = begin + min(first + lane, length - 1) * stride
        for d in range(width):
            lanes[d * LANES + lane] = source[at + d] * factor


@part_of_kernel()
def _products(lanes, rows, length, fours, out):  # type: ignore[no-untyped-def]
    """`out` [L, LANES]: every row's product with every lane."""
    for four in range(fours):
        at = four * _FOUR
        a, b = load(lanes, at), load(lanes, at + LANES)
        c, d = load(lanes, at + 2 * LANES), load(lanes, at + 3 * LANES)
        for j in range(length):
            row = (four * length + j) * 4
            s = a * broadcast(rows, row) + b * broadcast(rows, row + 1)
            s = s + c * broadcast(rows, row + 2) + d * broadcast(rows, row + 3)
            store(out, j * LANES, s if four == 0 else s + load(out, j * LANES))


@part_of_kernel()
def _sums(weights, rows, length, four, factor, out):  # type: ignore[no-untyped-def]
    """`out` [4, LANES]: rows (one four of them) summed by every lane's weights, times factor."""
    a = b = c = d = splat(_ZERO)
    for j in range(length):
        row, w = (four * length + j) * 4, load(weights, j * LANES)
        a, b = a + w * broadcast(rows, row), b + w * broadcast(rows, row + 1)
        c, d = c + w * broadcast(rows, row + 2), d + w * broadcast(rows, row + 3)
    store(out, 0, a * factor)
    store(out, LANES, b * factor)
    store(out, 2 * LANES, c * factor)
    store(out, 3 * LANES, d * factor)


@part_of_kernel()
def _put_lanes(lanes, begin, stride, first, length, width, four, out):  # type: ignore[no-untyped-def]
    """Write one four of `lanes` back to rows `first` on of `out`."""
    for lane in range(min(LANES, length - first)):
        at = begin + (first + lane) * stride + four * 4
        for d in range(min(4, width - four * 4)):
            out[at + d] = lanes[d * LANES + lane]


@kernel()
def attention_forward(qkv, shape, y, peaks, totals, first, last):  # type: ignore[no-untyped-def]
    """Attend in sequences first…last-1 of `qkv` into `y`.

    qkv: [outer, L, inner, 3, H, W]; y: [outer, L, inner, H, W]; shape: (L, inner, H, W);
    peaks, totals: [S, H, L], each query's largest score (in base 2) and 1 / the sum of its weights.
    """
    length, inner, heads, width = shape
    fours, channels = (width + 3) // 4, heads * width
    stride, scale = 3 * channels * inner, np.float32(1.4426950408889634 / np.sqrt(width))
    q = np.zeros(fours * _FOUR, np.float32)
    k, v = np.zeros(fours * 4 * length, np.float32), np.zeros(fours * 4 * length, np.float32)
    weights, part = np.empty(length * LANES, np.float32), np.empty(_FOUR, np.float32)
    for s in range(first, last):
        origin = (s // inner) * length * inner + s % inner
        for head in range(heads):
            begin, y_begin = origin * 3 * channels + head * width, origin * channels + head * width
            _take_rows(qkv, begin + channels, stride, length, width, _ONE, k)
            _take_rows(qkv, begin + 2 * channels, stride, length, width, _ONE, v)
            for i in range(0, length, LANES):
                _take_lanes(qkv, begin, stride, i, length, width, scale, q)
                _products(q, k, length, fours, weights)
                peak = splat(_LEAST)
                for j in range(length):
                    peak = maximum(peak, load(weights, j * LANES))
                total = splat(_ZERO)
                for j in range(length):
                    weight = exp2(load(weights, j * LANES) - peak)
                    total = total + weight
                    store(weights, j * LANES, weight)
                share = splat(_ONE) / total
                for four in range(fours):
                    _sums(weights, v, length, four, share, part)
                    _put_lanes(part, y_begin, channels * inner, i, length, width, four, y)
                at = (s * heads + head) * length
                store(part, 0, peak)
                store(part, LANES, share)
                for lane in range(min(LANES, length - i)):
                    peaks[at + i + lane] = part[lane]
                    totals[at + i + lane] = part[LANES + lane]


@kernel()
def attention_backward(qkv, y, dy, shape, peaks, totals, dqkv, first, last):  # type: ignore[no-untyped-def]
    """Gradient of `attention_forward` for sequences first…last-1: `dqkv`, shaped as qkv, is written.

    Weights are computed again from the queries' peaks and totals, once with queries in the lanes (for dq)
    and once with keys (for dk and dv), so that nothing is summed across lanes.
    """
    length, inner, heads, width = shape
    fours, channels = (width + 3) // 4, heads * width
    stride, y_stride = 3 * channels * inner, channels * inner
    root = np.float32(1 / np.sqrt(width))
    scale = LOG2_E * root
    size = fours * 4 * length
    q, k = np.zeros(size, np.float32), np.zeros(size, np.float32)
    v, g = np.zeros(size, np.float32), np.zeros(size, np.float32)
    a_lanes, b_lanes = np.zeros(fours * _FOUR, np.float32), np.zeros(fours * _FOUR, np.float32)
    weights, slopes = np.empty(length * LANES, np.float32), np.empty(length * LANES, np.float32)
    part, dots = np.empty(_FOUR, np.float32), np.empty(length + LANES, np.float32)
    peak_of, total_of = np.empty(length + LANES, np.float32), np.empty(length + LANES, np.float32)
    for s in range(first, last):
        origin = (s // inner) * length * inner + s % inner
        for head in range(heads):
            begin, y_begin = origin * 3 * channels + head * width, origin * channels + head * width
            _take_rows(qkv, begin, stride, length, width, scale, q)
            _take_rows(qkv, begin + channels, stride, length, width, _ONE, k)
            _take_rows(qkv, begin + 2 * channels, stride, length, width, _ONE, v)
            _take_rows(dy, y_begin, y_stride, length, width, _ONE, g)
            for i in range(length + LANES):
                at = (s * heads + head) * length + min(i, length - 1)
                peak_of[i], total_of[i] = peaks[at], totals[at]
                at, dot = y_begin + min(i, length - 1) * y_stride, _ZERO
                for d in range(width):
                    dot += y[at + d] * dy[at + d]
                dots[i] = dot
            for i in range(0, length, LANES):
                _take_lanes(qkv, begin, stride, i, length, width, scale, a_lanes)
                _take_lanes(dy, y_begin, y_stride, i, length, width, _ONE, b_lanes)
                _products(a_lanes, k, length, fours, weights)
                _products(b_lanes, v, length, fours, slopes)
                peak, share, dot = load(peak_of, i), load(total_of, i), load(dots, i)
                for j in range(length):
                    weight = exp2(load(weights, j * LANES) - peak) * share
                    store(slopes, j * LANES, weight * (load(slopes, j * LANES) - dot))
                for four in range(fours):
                    _sums(slopes, k, length, four, splat(root), part)
                    _put_lanes(part, begin, stride, i, length, width, four, dqkv)
            for j in range(0, length, LANES):
                _take_lanes(qkv, begin + channels, stride, j, length, width, _ONE, a_lanes)
                _take_lanes(qkv, begin + 2 * channels, stride, j, length, width, _ONE, b_lanes)
                _products(a_lanes, q, length, fours, weights)
                _products(b_lanes, g, length, fours, slopes)
                for i in range(length):
                    weight = exp2(load(weights, i * LANES) - broadcast(peak_of, i)) * broadcast(total_of, i)
                    store(weights, i * LANES, weight)
                    store(slopes, i * LANES, weight * (load(slopes, i * LANES) - broadcast(dots, i)))
                for four in range(fours):
                    # q holds log2 e / √W times the query: dk wants 1 / √W.
                    _sums(slopes, q, length, four, splat(LN_2), part)
                    _put_lanes(part, begin + channels, stride, j, length, width, four, dqkv)
                    _sums(weights, g, length, four, splat(_ONE), part)
                    _put_lanes(part, begin + 2 * channels, stride, j, length, width, four, dqkv)
