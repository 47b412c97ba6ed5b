"""Compiled loops of the Mamba mixer for the CPU: forward over a range of sequences.

A sequence along time or frequency is gathered from `[outer, L, inner, C]` into buffers that fit in the L2
cache; normalization, projections, convolution, scan and gate run there, and the result is scattered back,
so that no intermediate value as wide as the inner channels reaches main memory. The reverse direction
gathers and scatters the sequence from its end.

Numba caches compiled functions per defining file: after a change here, touch `mixer_loops_backward.py`.

Buffers are flat float32 `[rows, width]`; widths are multiples of LANES, their padding zero.

Legend: L length, C channels, D inner channels, R rank of the step, N states (C, D, N padded to whole
vectors).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rwsa.kernels.scan_loops import scan_sequence
from rwsa.kernels.simd import (
    LANES,
    broadcast,
    kernel,
    load,
    part_of_kernel,
    sigmoid,
    softplus,
    splat,
    store,
    total,
)

_ZERO, _ONE = np.float32(0), np.float32(1)


class Sizes(NamedTuple):
    """Sizes of the buffers, padded to whole vectors, and the true counts that some loops run over."""

    length: int
    inner: int  # rows from one step of a sequence to the next
    channels: int  # C, not padded
    width: int  # C padded
    wide: int  # D padded
    rank: int
    states: int
    states_wide: int  # N padded
    taps: int


class Weights(NamedTuple):
    """A mixer's weights; matrices are laid out `[from, to]`, and A2 as in `scan_loops`."""

    norm: np.ndarray  # C
    to_x: np.ndarray  # C, D
    to_z: np.ndarray  # C, D
    conv: np.ndarray  # taps, D
    conv_bias: np.ndarray  # D
    to_step: np.ndarray  # R, D: [to, from], since R is small
    to_B: np.ndarray  # D, N
    to_C: np.ndarray  # D, N
    from_step: np.ndarray  # R, D
    step_bias: np.ndarray  # D
    A2: np.ndarray
    D: np.ndarray
    out: np.ndarray  # D, C


class Sequence(NamedTuple):
    """Intermediate values of one sequence: `[L, C]`, `[L, D]`, `[L, R]` or `[L, N]` each."""

    x: np.ndarray
    normed: np.ndarray
    inverse_rms: np.ndarray  # [L]
    inner: np.ndarray  # before the convolution
    gate: np.ndarray
    conv: np.ndarray  # before its SiLU
    u: np.ndarray
    step: np.ndarray
    B: np.ndarray
    C: np.ndarray
    raw: np.ndarray  # before the softplus
    delta: np.ndarray
    y: np.ndarray
    out: np.ndarray


@part_of_kernel()
def new_sequence(sizes):  # type: ignore[no-untyped-def]
    rows, wide = sizes.length, sizes.length * sizes.wide
    narrow, states = rows * sizes.width, rows * sizes.states_wide
    return Sequence(
        np.zeros(narrow, np.float32),
        np.zeros(narrow, np.float32),
        np.zeros(rows, np.float32),
        np.zeros(wide, np.float32),
        np.zeros(wide, np.float32),
        np.zeros(wide, np.float32),
        np.zeros(wide, np.float32),
        np.zeros(rows * sizes.rank, np.float32),
        np.zeros(states, np.float32),
        np.zeros(states, np.float32),
        np.zeros(wide, np.float32),
        np.zeros(wide, np.float32),
        np.zeros(wide, np.float32),
        np.zeros(narrow, np.float32),
    )


@part_of_kernel()
def gather(source, origin, reverse, sizes, sequence):  # type: ignore[no-untyped-def]
    for i in range(sizes.length):
        row = origin + (sizes.length - 1 - i if reverse else i) * sizes.inner
        for c in range(sizes.channels):
            sequence[i * sizes.width + c] = source[row * sizes.channels + c]


@part_of_kernel()
def scatter(sequence, origin, reverse, sizes, target):  # type: ignore[no-untyped-def]
    for i in range(sizes.length):
        row = origin + (sizes.length - 1 - i if reverse else i) * sizes.inner
        for c in range(sizes.channels):
            target[row * sizes.channels + c] = sequence[i * sizes.width + c]


@part_of_kernel()
def multiply(a, a_width, count, weight, width, rows, add, out):  # type: ignore[no-untyped-def]
    """out [rows, width] = (out if add) + a[:, :count] @ weight, a being [rows, a_width]."""
    for m in range(0, width, LANES):
        whole = rows - rows % 4
        for r in range(0, whole, 4):
            at, out_at = r * a_width, r * width + m
            s0 = s1 = s2 = s3 = splat(_ZERO)
            if add:
                s0, s1 = load(out, out_at), load(out, out_at + width)
                s2, s3 = load(out, out_at + 2 * width), load(out, out_at + 3 * width)
            for k in range(count):
                w = load(weight, k * width + m)
                s0, s1 = s0 + w * broadcast(a, at + k), s1 + w * broadcast(a, at + a_width + k)
                s2 = s2 + w * broadcast(a, at + 2 * a_width + k)
                s3 = s3 + w * broadcast(a, at + 3 * a_width + k)
            store(out, out_at, s0)
            store(out, out_at + width, s1)
            store(out, out_at + 2 * width, s2)
            store(out, out_at + 3 * width, s3)
        for r in range(whole, rows):
            s0 = load(out, r * width + m) if add else splat(_ZERO)
            for k in range(count):
                s0 = s0 + load(weight, k * width + m) * broadcast(a, r * a_width + k)
            store(out, r * width + m, s0)


@part_of_kernel()
def scan_inputs(sizes, epsilon, weights, sequence):  # type: ignore[no-untyped-def]
    """Compute `normed` to `delta` from `x`: the inputs of the scan."""
    _normalise(sizes, epsilon, weights.norm, sequence)
    rows, wide = sizes.length, sizes.wide
    multiply(sequence.normed, sizes.width, sizes.channels, weights.to_x, wide, rows, False, sequence.inner)
    multiply(sequence.normed, sizes.width, sizes.channels, weights.to_z, wide, rows, False, sequence.gate)
    _convolve(sizes, weights, sequence)
    multiply(sequence.u, wide, wide, weights.to_B, sizes.states_wide, rows, False, sequence.B)
    multiply(sequence.u, wide, wide, weights.to_C, sizes.states_wide, rows, False, sequence.C)
    _steps(sizes, weights, sequence)


@part_of_kernel()
def _normalise(sizes, epsilon, weight, sequence):  # type: ignore[no-untyped-def]
    width = sizes.width
    for i in range(sizes.length):
        squares = splat(_ZERO)
        for c in range(i * width, (i + 1) * width, LANES):
            squares = squares + load(sequence.x, c) * load(sequence.x, c)
        root = _ONE / np.sqrt(total(squares) / np.float32(sizes.channels) + epsilon)
        sequence.inverse_rms[i] = root
        for c in range(0, width, LANES):
            at = i * width + c
            store(sequence.normed, at, load(sequence.x, at) * splat(root) * load(weight, c))


@part_of_kernel()
def _convolve(sizes, weights, sequence):  # type: ignore[no-untyped-def]
    """The causal convolution and its SiLU."""
    wide, taps = sizes.wide, sizes.taps
    for d in range(0, wide, LANES):
        bias = load(weights.conv_bias, d)
        for i in range(sizes.length):
            s = bias
            for tap in range(max(0, taps - 1 - i), taps):
                s = s + load(weights.conv, tap * wide + d) * load(
                    sequence.inner, (i + tap + 1 - taps) * wide + d
                )
            store(sequence.conv, i * wide + d, s)
            store(sequence.u, i * wide + d, s * sigmoid(s))


@part_of_kernel()
def _steps(sizes, weights, sequence):  # type: ignore[no-untyped-def]
    """Low-rank projection to the step sizes."""
    wide, rank = sizes.wide, sizes.rank
    for i in range(sizes.length):
        for r in range(rank):
            s = splat(_ZERO)
            for d in range(0, wide, LANES):
                s = s + load(sequence.u, i * wide + d) * load(weights.to_step, r * wide + d)
            sequence.step[i * rank + r] = total(s)
        for d in range(0, wide, LANES):
            s = load(weights.step_bias, d)
            for r in range(rank):
                s = s + load(weights.from_step, r * wide + d) * broadcast(sequence.step, i * rank + r)
            store(sequence.raw, i * wide + d, s)
            store(sequence.delta, i * wide + d, softplus(s))


@kernel()
def mixer_forward(x, sizes, epsilon, reverse, save, weights, out, states, first, last):  # type: ignore[no-untyped-def]
    """out = x + mixer(norm(x)) for sequences first…last-1.

    x, out: [outer, L, inner, C]; states: as in `scan_forward`, written where `save`.
    """
    sequence = new_sequence(sizes)
    scan_layout = (sizes.length, 1, sizes.wide, sizes.states, sizes.states_wide)
    for s in range(first, last):
        origin = (s // sizes.inner) * sizes.length * sizes.inner + s % sizes.inner
        gather(x, origin, reverse, sizes, sequence.x)
        scan_inputs(sizes, epsilon, weights, sequence)
        scan_sequence(
            sequence.u, sequence.delta, weights.A2, sequence.B, sequence.C, weights.D, sequence.gate,
            False, save, scan_layout, 0, sequence.y, states, s,
        )  # fmt: skip
        sequence.out[:] = sequence.x
        multiply(
            sequence.y, sizes.wide, sizes.wide, weights.out, sizes.width, sizes.length, True, sequence.out
        )
        scatter(sequence.out, origin, reverse, sizes, out)
