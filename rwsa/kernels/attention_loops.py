"""Compiled self-attention loops for the CPU: forward and backward over a range of sequences.

A sequence is one (outer, inner) pair of `[outer, length, inner, channel]`, as in the scan, so that neither
axis needs a transposed copy. Heads of this network are 4 to 12 wide, too narrow for matrix products: instead,
LANES queries (or keys) occupy the lanes of a vector while the loop runs over all keys (or queries). A head's
scores against LANES queries fit in the L1 cache.

Legend: S sequences, L length, H heads, W width of a head, P the width rounded up to a multiple of four.
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
_LOWEST_SCORE = np.float32(-1e30)
_FOUR = 4 * LANES


@part_of_kernel()
def _gather_rows(source, begin, stride, length, width, factor, rows):  # type: ignore[no-untyped-def]
    """Gather rows of `width` floats, `stride` apart, into `rows` [P/4, L, 4], times `factor`."""
    for i in range(length):
        for d in range(width):
            rows[(d // 4 * length + i) * 4 + d % 4] = source[begin + i * stride + d] * factor


@part_of_kernel()
def _gather_lanes(source, begin, stride, first, length, width, factor, lanes):  # type: ignore[no-untyped-def]
    """Gather rows `first`, `first` + 1, … into `lanes` [W, LANES], repeating the last row beyond the end."""
    for lane in range(LANES):
        at = begin + min(first + lane, length - 1) * stride
        for d in range(width):
            lanes[d * LANES + lane] = source[at + d] * factor


@part_of_kernel()
def _products(lanes, rows, length, fours, out):  # type: ignore[no-untyped-def]
    """`out` [L, LANES]: dot products of every row with every lane."""
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
def _weighted_sums(weights, rows, length, four, factor, out):  # type: ignore[no-untyped-def]
    """`out` [4, LANES]: weighted sums of the rows' group `four`, by each lane's weights, times `factor`."""
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
def _scatter_lanes(lanes, begin, stride, first, length, width, four, out):  # type: ignore[no-untyped-def]
    """Scatter one group of four of `lanes` to rows `first`, `first` + 1, … of `out`."""
    for lane in range(min(LANES, length - first)):
        at = begin + (first + lane) * stride + four * 4
        for d in range(min(4, width - four * 4)):
            out[at + d] = lanes[d * LANES + lane]


@kernel()
def attention_forward(qkv, shape, y, peaks, normalizers, first, last):  # type: ignore[no-untyped-def]
    """Attention of sequences first…last-1 of `qkv`, written to `y`.

    qkv: [outer, L, inner, 3, H, W]; y: [outer, L, inner, H, W]; shape: (L, inner, H, W);
    peaks, normalizers: [S, H, L], each query's largest score (in base 2) and 1 / the sum of its weights.
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
            _gather_rows(qkv, begin + channels, stride, length, width, _ONE, k)
            _gather_rows(qkv, begin + 2 * channels, stride, length, width, _ONE, v)
            for i in range(0, length, LANES):
                _gather_lanes(qkv, begin, stride, i, length, width, scale, q)
                _products(q, k, length, fours, weights)
                peak = splat(_LOWEST_SCORE)
                for j in range(length):
                    peak = maximum(peak, load(weights, j * LANES))
                total = splat(_ZERO)
                for j in range(length):
                    weight = exp2(load(weights, j * LANES) - peak)
                    total = total + weight
                    store(weights, j * LANES, weight)
                share = splat(_ONE) / total
                for four in range(fours):
                    _weighted_sums(weights, v, length, four, share, part)
                    _scatter_lanes(part, y_begin, channels * inner, i, length, width, four, y)
                at = (s * heads + head) * length
                store(part, 0, peak)
                store(part, LANES, share)
                for lane in range(min(LANES, length - i)):
                    peaks[at + i + lane] = part[lane]
                    normalizers[at + i + lane] = part[LANES + lane]


@kernel()
def attention_backward(qkv, y, dy, shape, peaks, normalizers, dqkv, first, last):  # type: ignore[no-untyped-def]
    """Gradient of `attention_forward` for sequences first…last-1: `dqkv`, shaped as qkv, is written.

    Weights are recomputed from the queries' peaks and normalizers, once with queries in the lanes (for dq)
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
    peak_of, normalizer_of = np.empty(length + LANES, np.float32), np.empty(length + LANES, np.float32)
    for s in range(first, last):
        origin = (s // inner) * length * inner + s % inner
        for head in range(heads):
            begin, y_begin = origin * 3 * channels + head * width, origin * channels + head * width
            _gather_rows(qkv, begin, stride, length, width, scale, q)
            _gather_rows(qkv, begin + channels, stride, length, width, _ONE, k)
            _gather_rows(qkv, begin + 2 * channels, stride, length, width, _ONE, v)
            _gather_rows(dy, y_begin, y_stride, length, width, _ONE, g)
            for i in range(length + LANES):
                at = (s * heads + head) * length + min(i, length - 1)
                peak_of[i], normalizer_of[i] = peaks[at], normalizers[at]
                at, dot = y_begin + min(i, length - 1) * y_stride, _ZERO
                for d in range(width):
                    dot += y[at + d] * dy[at + d]
                dots[i] = dot
            for i in range(0, length, LANES):
                _gather_lanes(qkv, begin, stride, i, length, width, scale, a_lanes)
                _gather_lanes(dy, y_begin, y_stride, i, length, width, _ONE, b_lanes)
                _products(a_lanes, k, length, fours, weights)
                _products(b_lanes, v, length, fours, slopes)
                peak, share, dot = load(peak_of, i), load(normalizer_of, i), load(dots, i)
                for j in range(length):
                    weight = exp2(load(weights, j * LANES) - peak) * share
                    store(slopes, j * LANES, weight * (load(slopes, j * LANES) - dot))
                for four in range(fours):
                    _weighted_sums(slopes, k, length, four, splat(root), part)
                    _scatter_lanes(part, begin, stride, i, length, width, four, dqkv)
            for j in range(0, length, LANES):
                _gather_lanes(qkv, begin + channels, stride, j, length, width, _ONE, a_lanes)
                _gather_lanes(qkv, begin + 2 * channels, stride, j, length, width, _ONE, b_lanes)
                _products(a_lanes, q, length, fours, weights)
                _products(b_lanes, g, length, fours, slopes)
                for i in range(length):
                    weight = exp2(load(weights, i * LANES) - broadcast(peak_of, i)) * broadcast(
                        normalizer_of, i
                    )
                    store(weights, i * LANES, weight)
                    store(slopes, i * LANES, weight * (load(slopes, i * LANES) - broadcast(dots, i)))
                for four in range(fours):
                    # q is scaled by log2 e / √W, and dk needs 1 / √W.
                    _weighted_sums(slopes, q, length, four, splat(LN_2), part)
                    _scatter_lanes(part, begin + channels, stride, j, length, width, four, dqkv)
                    _weighted_sums(weights, g, length, four, splat(_ONE), part)
                    _scatter_lanes(part, begin + 2 * channels, stride, j, length, width, four, dqkv)
