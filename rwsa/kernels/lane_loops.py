"""Compiled loops over LANES sequences at a time: one lane of every vector belongs to one sequence.

So nothing is summed across lanes but the gradients of weights, and narrow channels fill whole vectors.
A chunk is some steps of LANES sequences: a flat float32 buffer `[steps, stride, LANES]`. Its number of steps
is a multiple of four; its stride is odd, which spreads a column over the cache's sets.

Legend: a sequence is one (outer, inner) pair of `[outer, length, inner, channels]`.
"""

from __future__ import annotations

import numpy as np

from rwsa.kernels.simd import (
    LANES,
    add_totals,
    broadcast,
    gather_four,
    load,
    part_of_kernel,
    scatter_four,
    splat,
    store,
)

_ZERO = np.float32(0)


@part_of_kernel()
def locate(lines, first, offsets):  # type: ignore[no-untyped-def]
    """Write where the first steps of sequences `first`… begin; returns the number of sequences up to LANES.

    lines: (length, inner, channels, sequences).
    """
    length, inner, channels, sequences = lines
    for lane in range(LANES):
        s = min(first + lane, sequences - 1)
        offsets[lane] = ((s // inner) * length * inner + s % inner) * channels
    return min(LANES, sequences - first)


@part_of_kernel()
def gather(source, lines, offsets, count, begin, rows, reverse, chunk, stride):  # type: ignore[no-untyped-def]
    """Gather steps `begin`… of `count` sequences into `chunk`: zero beyond either end, in other lanes
    and in columns of padding.

    In reverse, step 0 is a sequence's last position.
    """
    length, inner, channels, _ = lines
    for k in range(rows):
        step, at = begin + k, k * stride * LANES
        if step < 0 or step >= length:
            for c in range(stride - 1):
                store(chunk, at + c * LANES, splat(_ZERO))
            continue
        row = (length - 1 - step if reverse else step) * inner * channels
        if count == LANES and channels % 4 == 0:
            for c in range(0, channels, 4):
                gather_four(source, offsets, row + c, chunk, at + c * LANES)
        else:
            for c in range(stride - 1):
                store(chunk, at + c * LANES, splat(_ZERO))
            for c in range(channels):
                for lane in range(count):
                    chunk[at + c * LANES + lane] = source[offsets[lane] + row + c]


@part_of_kernel()
def scatter(chunk, stride, lines, offsets, count, begin, rows, reverse, add, target):  # type: ignore[no-untyped-def]
    """Write, or `add`, a chunk to `target`, where `gather` reads it."""
    length, inner, channels, _ = lines
    for k in range(min(rows, length - begin)):
        step, at = begin + k, k * stride * LANES
        row = (length - 1 - step if reverse else step) * inner * channels
        if count == LANES and channels % 4 == 0:
            for c in range(0, channels, 4):
                scatter_four(target, offsets, row + c, chunk, at + c * LANES, 1 if add else 0)
        else:
            for lane in range(count):
                for c in range(channels):
                    to = offsets[lane] + row + c
                    before = target[to] if add else _ZERO
                    target[to] = before + chunk[at + c * LANES + lane]


@part_of_kernel()
def project(weight, by_out, by_in, outs, ins, a, a_stride, rows, add, out, out_stride):  # type: ignore[no-untyped-def]
    """out[k, m] = (out[k, m] if add) + Σ_j weight[m · by_out + j · by_in] · a[k, j]; outs is even."""
    a_row, out_row = a_stride * LANES, out_stride * LANES
    for k in range(0, rows, 4):
        for m in range(0, outs, 2):
            to = k * out_row + m * LANES
            s0 = s1 = s2 = s3 = t0 = t1 = t2 = t3 = splat(_ZERO)
            if add:
                s0, t0 = load(out, to), load(out, to + LANES)
                s1, t1 = load(out, to + out_row), load(out, to + out_row + LANES)
                s2, t2 = load(out, to + 2 * out_row), load(out, to + 2 * out_row + LANES)
                s3, t3 = load(out, to + 3 * out_row), load(out, to + 3 * out_row + LANES)
            at, w_at = k * a_row, m * by_out
            for _ in range(ins):
                w, v = broadcast(weight, w_at), broadcast(weight, w_at + by_out)
                a0, a1 = load(a, at), load(a, at + a_row)
                a2, a3 = load(a, at + 2 * a_row), load(a, at + 3 * a_row)
                s0, s1, s2, s3 = s0 + w * a0, s1 + w * a1, s2 + w * a2, s3 + w * a3
                t0, t1, t2, t3 = t0 + v * a0, t1 + v * a1, t2 + v * a2, t3 + v * a3
                at, w_at = at + LANES, w_at + by_in
            store(out, to, s0)
            store(out, to + LANES, t0)
            store(out, to + out_row, s1)
            store(out, to + out_row + LANES, t1)
            store(out, to + 2 * out_row, s2)
            store(out, to + 2 * out_row + LANES, t2)
            store(out, to + 3 * out_row, s3)
            store(out, to + 3 * out_row + LANES, t3)


@part_of_kernel()
def add_outer_products(a, a_stride, outs, b, b_stride, ins, rows, sums):  # type: ignore[no-untyped-def]
    """sums [outs / 4, ins / 2, 4, 2] += Σ over rows and lanes of a[k, m] · b[k, j]."""
    a_row, b_row, to = a_stride * LANES, b_stride * LANES, 0
    for m in range(0, outs, 4):
        for j in range(0, ins, 2):
            s0 = s1 = s2 = s3 = t0 = t1 = t2 = t3 = splat(_ZERO)
            at, b_at = m * LANES, j * LANES
            for _ in range(rows):
                v, w = load(b, b_at), load(b, b_at + LANES)
                a0, a1 = load(a, at), load(a, at + LANES)
                a2, a3 = load(a, at + 2 * LANES), load(a, at + 3 * LANES)
                s0, s1, s2, s3 = s0 + v * a0, s1 + v * a1, s2 + v * a2, s3 + v * a3
                t0, t1, t2, t3 = t0 + w * a0, t1 + w * a1, t2 + w * a2, t3 + w * a3
                at, b_at = at + a_row, b_at + b_row
            add_totals(sums, to, (s0, t0, s1, t1, s2, t2, s3, t3))
            to += 8
