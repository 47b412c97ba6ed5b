"""Compiled loops of a bidirectional Mamba mixer for the CPU: forward over a range of groups of sequences.

A group is LANES sequences, in chunks of steps (`rwsa.kernels.lane_loops`) whose values fit in the L2 cache,
so that no value as wide as the inner channels reaches main memory. The reverse direction gathers and
scatters every sequence from its end, and adds to the output of the other one.

Legend: C channels, D inner channels, N states, R rank of the step (C and D padded to multiples of four, N and
R to even numbers), K steps of a chunk, H steps before it that its convolution reads.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import numpy as np

from rwsa.kernels.lane_loops import gather, locate, project, scatter
from rwsa.kernels.simd import (
    LANES,
    broadcast,
    exp2,
    inverse_root,
    kernel,
    load,
    part_of_kernel,
    sigmoid,
    softplus,
    splat,
    store,
)

_ZERO, _ONE = np.float32(0), np.float32(1)
SCAN_STEPS = 8  # B and C of as many steps stay in the L1 cache


class Sizes(NamedTuple):
    """Sizes of a mixer, padded, and strides of its chunks."""

    channels: int
    inner: int
    states: int
    rank: int
    taps: int
    steps: int  # K
    head: int  # H, a multiple of four
    true_channels: int
    narrow: int  # stride of C channels
    wide: int  # of D channels
    double: int  # of 2 D
    small: int  # of 2 N + R


class Weights(NamedTuple):
    """A direction's weights, padded with zeros; A2 is A times log2 e."""

    norm: np.ndarray  # C
    in_proj: np.ndarray  # 2 D, C
    conv: np.ndarray  # D, taps
    conv_bias: np.ndarray  # D
    x_proj: np.ndarray  # 2 N + R, D: B, C, step
    dt_proj: np.ndarray  # D, R
    dt_bias: np.ndarray  # D
    A2: np.ndarray  # D, N
    D: np.ndarray  # D
    out: np.ndarray  # C, D: the direction's part of the merge after its output projection


class Chunk(NamedTuple):
    """Values of a chunk; those before the convolution have H more steps at the beginning."""

    x: np.ndarray  # H + K, C
    normed: np.ndarray  # H + K, C
    inverse_rms: np.ndarray  # H + K
    xz: np.ndarray  # H + K, 2 D: before the convolution, and the gate z
    gate: np.ndarray  # K + H, D: the sigmoid of the convolution; the last H steps only in the gradient
    u: np.ndarray  # K, D
    small: np.ndarray  # K, 2 N + R: B, C, step
    raw: np.ndarray  # K, D: before the softplus
    delta: np.ndarray  # K, D
    y: np.ndarray  # K, D: after the gate
    out: np.ndarray  # K, C
    line: np.ndarray  # 4, K: of two inner channels


def chunk_ends(sizes: Sizes) -> tuple[int, ...]:
    """Where the arrays of a `Chunk` begin in its buffer, and where the last ends, in floats."""
    rows, all_rows = sizes.steps, sizes.head + sizes.steps
    before, wide = all_rows * sizes.narrow, rows * sizes.wide
    widths = (
        before, before, all_rows, all_rows * sizes.double, all_rows * sizes.wide, wide, rows * sizes.small,
        wide, wide, wide, rows * sizes.narrow, 4 * rows,
    )  # fmt: skip
    return (0, *(end * LANES for end in accumulate(widths)))


@part_of_kernel()
def new_chunk(buffer, ends):  # type: ignore[no-untyped-def]
    return Chunk(
        buffer[ends[0] : ends[1]],
        buffer[ends[1] : ends[2]],
        buffer[ends[2] : ends[3]],
        buffer[ends[3] : ends[4]],
        buffer[ends[4] : ends[5]],
        buffer[ends[5] : ends[6]],
        buffer[ends[6] : ends[7]],
        buffer[ends[7] : ends[8]],
        buffer[ends[8] : ends[9]],
        buffer[ends[9] : ends[10]],
        buffer[ends[10] : ends[11]],
        buffer[ends[11] : ends[12]],
    )


@part_of_kernel()
def normalise(sizes, epsilon, weight, rows, x, inverse_rms, normed):  # type: ignore[no-untyped-def]
    for k in range(rows):
        squares, row = splat(_ZERO), k * sizes.narrow * LANES
        for at in range(row, row + sizes.channels * LANES, LANES):
            v = load(x, at)
            squares = squares + v * v
        root = inverse_root(squares * splat(_ONE / np.float32(sizes.true_channels)) + splat(epsilon))
        store(inverse_rms, k * LANES, root)
        for c in range(sizes.channels):
            store(normed, row + c * LANES, load(x, row + c * LANES) * root * broadcast(weight, c))


@part_of_kernel()
def scan_inputs(sizes, weights, rows, chunk):  # type: ignore[no-untyped-def]
    """Compute `gate` to `delta` from `xz`."""
    inner, wide, small = sizes.inner, sizes.wide, sizes.small
    before = (sizes.head - sizes.taps + 1) * sizes.double
    for k in range(rows):
        for d in range(inner):
            s, at = broadcast(weights.conv_bias, d), (before + k * sizes.double + d) * LANES
            for tap in range(sizes.taps):
                s = s + broadcast(weights.conv, d * sizes.taps + tap) * load(chunk.xz, at)
                at += sizes.double * LANES
            gate = sigmoid(s)
            store(chunk.gate, (k * wide + d) * LANES, gate)
            store(chunk.u, (k * wide + d) * LANES, s * gate)
    outs = 2 * sizes.states + sizes.rank
    project(weights.x_proj, inner, 1, outs, inner, chunk.u, wide, rows, False, chunk.small, small)
    for k in range(rows):
        step = (k * small + 2 * sizes.states) * LANES
        for d in range(inner):
            s = broadcast(weights.dt_bias, d)
            for r in range(sizes.rank):
                s = s + broadcast(weights.dt_proj, d * sizes.rank + r) * load(chunk.small, step + r * LANES)
            store(chunk.raw, (k * wide + d) * LANES, s)
            store(chunk.delta, (k * wide + d) * LANES, softplus(s))


@part_of_kernel()
def _scan(sizes, weights, rows, state, chunk):  # type: ignore[no-untyped-def]
    """Compute `y` from `u` to `delta`, and advance `state` [D, N]."""
    for begin in range(0, rows, SCAN_STEPS):
        end = min(rows, begin + SCAN_STEPS)
        for d in range(0, sizes.inner, 2):
            for k in range(begin, end):
                at, line = (k * sizes.wide + d) * LANES, k * LANES
                store(chunk.line, line, broadcast(weights.D, d) * load(chunk.u, at))
                store(
                    chunk.line,
                    line + sizes.steps * LANES,
                    broadcast(weights.D, d + 1) * load(chunk.u, at + LANES),
                )
            for n in range(0, sizes.states, 2):
                _scan_pairs(sizes, weights.A2, begin, end, d, n, state, chunk)
            for k in range(begin, end):
                at, at_z = (k * sizes.wide + d) * LANES, (k + sizes.head) * sizes.double + sizes.inner + d
                z = load(chunk.xz, at_z * LANES)
                store(chunk.y, at, load(chunk.line, k * LANES) * z * sigmoid(z))
                z = load(chunk.xz, (at_z + 1) * LANES)
                store(chunk.y, at + LANES, load(chunk.line, (k + sizes.steps) * LANES) * z * sigmoid(z))


@part_of_kernel()
def _scan_pairs(sizes, A2, begin, end, d, n, state, chunk):  # type: ignore[no-untyped-def]
    """Advance states n and n + 1 of channels d and d + 1, and add their outputs to `line`."""
    count = sizes.states
    at_0, at_1, second = (d * count + n) * LANES, ((d + 1) * count + n) * LANES, sizes.steps * LANES
    h00, h01 = load(state, at_0), load(state, at_0 + LANES)
    h10, h11 = load(state, at_1), load(state, at_1 + LANES)
    a00, a01 = broadcast(A2, d * count + n), broadcast(A2, d * count + n + 1)
    a10, a11 = broadcast(A2, (d + 1) * count + n), broadcast(A2, (d + 1) * count + n + 1)
    for k in range(begin, end):
        at, at_B = (k * sizes.wide + d) * LANES, (k * sizes.small + n) * LANES
        at_C = at_B + count * LANES
        B0, B1 = load(chunk.small, at_B), load(chunk.small, at_B + LANES)
        C0, C1 = load(chunk.small, at_C), load(chunk.small, at_C + LANES)
        delta = load(chunk.delta, at)
        drive = delta * load(chunk.u, at)
        h00 = exp2(delta * a00) * h00 + drive * B0
        h01 = exp2(delta * a01) * h01 + drive * B1
        store(chunk.line, k * LANES, load(chunk.line, k * LANES) + h00 * C0 + h01 * C1)
        delta = load(chunk.delta, at + LANES)
        drive = delta * load(chunk.u, at + LANES)
        h10 = exp2(delta * a10) * h10 + drive * B0
        h11 = exp2(delta * a11) * h11 + drive * B1
        line = k * LANES + second
        store(chunk.line, line, load(chunk.line, line) + h10 * C0 + h11 * C1)
    store(state, at_0, h00)
    store(state, at_0 + LANES, h01)
    store(state, at_1, h10)
    store(state, at_1 + LANES, h11)


@kernel()
def mixer_forward(  # type: ignore[no-untyped-def]
    x, lines, sizes, ends, epsilon, reverse, save, weights, merge, bias, out, states, work, first, last
):
    """One direction's part of the output for groups first…last-1; in reverse it is added to the other's.

    x, out: [outer, L, inner, C]; lines: as in `locate`; merge: [C, C], the part of the output that x itself
    has, and bias: [C], both used forward only; states: [groups, chunks, D, N, LANES], the state before every
    chunk, written where `save`; work: a chunk, then a state.
    """
    chunk, size = new_chunk(work, ends), sizes.inner * sizes.states * LANES
    state = work[work.size - size :]
    chunks = (lines[0] + sizes.steps - 1) // sizes.steps
    narrow, channels = sizes.narrow, sizes.channels
    offsets = np.empty(LANES, np.int64)
    for group in range(first, last):
        count = locate(lines, group * LANES, offsets)
        state[:] = _ZERO
        chunk.xz[: sizes.head * sizes.double * LANES] = _ZERO
        for number in range(chunks):
            begin = number * sizes.steps
            rows = min(sizes.steps, (lines[0] - begin + 3) // 4 * 4)
            gather(x, lines, offsets, count, begin, rows, reverse, chunk.x, narrow)
            normalise(sizes, epsilon, weights.norm, rows, chunk.x, chunk.inverse_rms, chunk.normed)
            project(
                weights.in_proj, channels, 1, 2 * sizes.inner, channels, chunk.normed, narrow, rows, False,
                chunk.xz[sizes.head * sizes.double * LANES :], sizes.double,
            )  # fmt: skip
            scan_inputs(sizes, weights, rows, chunk)
            if save:
                at = (group * chunks + number) * size
                states[at : at + size] = state
            _scan(sizes, weights, rows, state, chunk)
            if not reverse:
                for k in range(rows):
                    for c in range(channels):
                        store(chunk.out, (k * narrow + c) * LANES, broadcast(bias, c))
                project(
                    merge, channels, 1, channels, channels, chunk.x, narrow, rows, True, chunk.out, narrow
                )
            project(
                weights.out, sizes.inner, 1, channels, sizes.inner, chunk.y, sizes.wide, rows, not reverse,
                chunk.out, narrow,
            )  # fmt: skip
            scatter(chunk.out, narrow, lines, offsets, count, begin, rows, reverse, reverse, out)
            # The convolution of the next chunk reads the last H steps of this one.
            last_steps = rows * sizes.double * LANES
            chunk.xz[: sizes.head * sizes.double * LANES] = chunk.xz[
                last_steps : last_steps + sizes.head * sizes.double * LANES
            ]
