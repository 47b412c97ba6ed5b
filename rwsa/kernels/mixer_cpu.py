"""A whole Mamba mixer, compiled for the CPU: forward and backward over a range of lines.

A line is one sequence along time or frequency. It is taken out of `[outer, L, inner, C]` into the second
cache, goes there through normalisation, projections, convolution, scan and gate, and comes back: between
the steps nothing as wide as the inner channels touches main memory. Backward computes the line again, the
scan's checkpointed states excepted. The reverse direction is the line taken from its end.

Buffers are flat float32, `[rows, width]`; widths are whole vectors, their spare channels zero.

Legend: L length, C channels, D inner channels, R rank of the step, N states (each in whole vectors).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rwsa.kernels.scan_cpu_loops import scan_line, scan_line_backward
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
    """Numbers of rows and of whole-vector columns, and the true counts that some loops run over."""

    length: int
    inner: int  # rows from one step of a line to the next
    channels: int  # C as it lies outside
    width: int  # C in whole vectors
    wide: int  # D in whole vectors
    rank: int
    states: int
    states_wide: int  # N in whole vectors
    taps: int


class Weights(NamedTuple):
    """A mixer's weights; products are laid out `[from, to]`. A2 is grouped as the scan wants it."""

    norm: np.ndarray  # C
    to_x: np.ndarray  # C, D
    to_z: np.ndarray  # C, D
    conv: np.ndarray  # taps, D
    conv_bias: np.ndarray  # D
    to_step: np.ndarray  # R, D: laid out [to, from], since R is small
    to_B: np.ndarray  # D, N
    to_C: np.ndarray  # D, N
    from_step: np.ndarray  # R, D
    step_bias: np.ndarray  # D
    A2: np.ndarray
    D: np.ndarray
    out: np.ndarray  # D, C


class Transposed(NamedTuple):
    """The products of `Weights` the other way round, for gradients."""

    to_x: np.ndarray  # D, C
    to_z: np.ndarray  # D, C
    to_B: np.ndarray  # N, D
    to_C: np.ndarray  # N, D
    out: np.ndarray  # C, D


class Line(NamedTuple):
    """What one line is on its way through the mixer: `[L, C]`, `[L, D]`, `[L, R]` or `[L, N]` each."""

    x: np.ndarray
    normed: np.ndarray
    root: np.ndarray  # [L], 1 / the root mean square
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
def _new_line(sizes):  # type: ignore[no-untyped-def]
    rows, wide = sizes.length, sizes.length * sizes.wide
    narrow, states = rows * sizes.width, rows * sizes.states_wide
    return Line(
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
def _take(source, origin, reverse, sizes, line):  # type: ignore[no-untyped-def]
    for i in range(sizes.length):
        row = origin + (sizes.length - 1 - i if reverse else i) * sizes.inner
        for c in range(sizes.channels):
            line[i * sizes.width + c] = source[row * sizes.channels + c]


@part_of_kernel()
def _put(line, origin, reverse, sizes, target):  # type: ignore[no-untyped-def]
    for i in range(sizes.length):
        row = origin + (sizes.length - 1 - i if reverse else i) * sizes.inner
        for c in range(sizes.channels):
            target[row * sizes.channels + c] = line[i * sizes.width + c]


@part_of_kernel()
def _multiply(a, a_width, count, weight, width, rows, add, out):  # type: ignore[no-untyped-def]
    """out [rows, width] = (out if add) + the first `count` columns of a [rows, a_width] @ weight."""
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
def _accumulate(a, a_width, count, b, width, rows, out):  # type: ignore[no-untyped-def]
    """out [count, width] += the first `count` columns of a [rows, a_width], transposed, @ b [rows, width]."""
    for m in range(0, width, LANES):
        whole = count - count % 4
        for k in range(0, whole, 4):
            at = k * width + m
            s0, s1 = load(out, at), load(out, at + width)
            s2, s3 = load(out, at + 2 * width), load(out, at + 3 * width)
            for r in range(rows):
                b_r, a_at = load(b, r * width + m), r * a_width + k
                s0, s1 = s0 + b_r * broadcast(a, a_at), s1 + b_r * broadcast(a, a_at + 1)
                s2, s3 = s2 + b_r * broadcast(a, a_at + 2), s3 + b_r * broadcast(a, a_at + 3)
            store(out, at, s0)
            store(out, at + width, s1)
            store(out, at + 2 * width, s2)
            store(out, at + 3 * width, s3)
        for k in range(whole, count):
            s0 = load(out, k * width + m)
            for r in range(rows):
                s0 = s0 + load(b, r * width + m) * broadcast(a, r * a_width + k)
            store(out, k * width + m, s0)


@part_of_kernel()
def _through(sizes, epsilon, weights, line):  # type: ignore[no-untyped-def]
    """From `x` to `delta`: all that the scan needs."""
    _normalise(sizes, epsilon, weights.norm, line)
    rows, wide = sizes.length, sizes.wide
    _multiply(line.normed, sizes.width, sizes.channels, weights.to_x, wide, rows, False, line.inner)
    _multiply(line.normed, sizes.width, sizes.channels, weights.to_z, wide, rows, False, line.gate)
    _convolve(sizes, weights, line)
    _multiply(line.u, wide, wide, weights.to_B, sizes.states_wide, rows, False, line.B)
    _multiply(line.u, wide, wide, weights.to_C, sizes.states_wide, rows, False, line.C)
    _steps(sizes, weights, line)


@part_of_kernel()
def _normalise(sizes, epsilon, weight, line):  # type: ignore[no-untyped-def]
    width = sizes.width
    for i in range(sizes.length):
        squares = splat(_ZERO)
        for c in range(i * width, (i + 1) * width, LANES):
            squares = squares + load(line.x, c) * load(line.x, c)
        root = _ONE / np.sqrt(total(squares) / np.float32(sizes.channels) + epsilon)
        line.root[i] = root
        for c in range(0, width, LANES):
            at = i * width + c
            store(line.normed, at, load(line.x, at) * splat(root) * load(weight, c))


@part_of_kernel()
def _convolve(sizes, weights, line):  # type: ignore[no-untyped-def]
    """The causal convolution and its SiLU."""
    wide, taps = sizes.wide, sizes.taps
    for d in range(0, wide, LANES):
        bias = load(weights.conv_bias, d)
        for i in range(sizes.length):
            s = bias
            for tap in range(max(0, taps - 1 - i), taps):
                s = s + load(weights.conv, tap * wide + d) * load(line.inner, (i + tap + 1 - taps) * wide + d)
            store(line.conv, i * wide + d, s)
            store(line.u, i * wide + d, s * sigmoid(s))


@part_of_kernel()
def _steps(sizes, weights, line):  # type: ignore[no-untyped-def]
    """The step sizes, through their low rank."""
    wide, rank = sizes.wide, sizes.rank
    for i in range(sizes.length):
        for r in range(rank):
            s = splat(_ZERO)
            for d in range(0, wide, LANES):
                s = s + load(line.u, i * wide + d) * load(weights.to_step, r * wide + d)
            line.step[i * rank + r] = total(s)
        for d in range(0, wide, LANES):
            s = load(weights.step_bias, d)
            for r in range(rank):
                s = s + load(weights.from_step, r * wide + d) * broadcast(line.step, i * rank + r)
            store(line.raw, i * wide + d, s)
            store(line.delta, i * wide + d, softplus(s))


@kernel()
def mixer_forward(x, sizes, epsilon, reverse, save, weights, out, states, first, last):  # type: ignore[no-untyped-def]
    """out = x + mixer(norm(x)) for lines first…last-1.

    x, out: [outer, L, inner, C]; states: as in `scan_forward`, written where `save`.
    """
    line = _new_line(sizes)
    scanned = (sizes.length, 1, sizes.wide, sizes.states, sizes.states_wide)
    for s in range(first, last):
        origin = (s // sizes.inner) * sizes.length * sizes.inner + s % sizes.inner
        _take(x, origin, reverse, sizes, line.x)
        _through(sizes, epsilon, weights, line)
        scan_line(
            line.u, line.delta, weights.A2, line.B, line.C, weights.D, line.gate,
            False, save, scanned, 0, line.y, states, s,
        )  # fmt: skip
        line.out[:] = line.x
        _multiply(line.y, sizes.wide, sizes.wide, weights.out, sizes.width, sizes.length, True, line.out)
        _put(line.out, origin, reverse, sizes, out)


@kernel()
def mixer_backward(  # type: ignore[no-untyped-def]
    x, dout, sizes, epsilon, reverse, weights, transposed, states, dx, dweights, first, last
):
    """Gradients of `mixer_forward` for lines first…last-1: dx is written, dweights are added to."""
    line, d = _new_line(sizes), _new_line(sizes)
    rows, wide, width = sizes.length, sizes.wide, sizes.width
    scanned = (rows, 1, wide, sizes.states, sizes.states_wide)
    for s in range(first, last):
        origin = (s // sizes.inner) * sizes.length * sizes.inner + s % sizes.inner
        _take(x, origin, reverse, sizes, line.x)
        _take(dout, origin, reverse, sizes, d.out)
        _through(sizes, epsilon, weights, line)
        _multiply(d.out, width, sizes.channels, transposed.out, wide, rows, False, d.y)
        scan_line_backward(
            line.u, line.delta, weights.A2, line.B, line.C, weights.D, line.gate, False, scanned, 0,
            states, s, d.y, d.u, d.delta, dweights.A2, d.B, d.C, dweights.D, d.gate, line.y,
        )  # fmt: skip
        _accumulate(line.y, wide, wide, d.out, width, rows, dweights.out)
        _steps_backward(sizes, weights, line, d, dweights)
        _multiply(d.B, sizes.states_wide, sizes.states, transposed.to_B, wide, rows, True, d.u)
        _multiply(d.C, sizes.states_wide, sizes.states, transposed.to_C, wide, rows, True, d.u)
        _accumulate(line.u, wide, wide, d.B, sizes.states_wide, rows, dweights.to_B)
        _accumulate(line.u, wide, wide, d.C, sizes.states_wide, rows, dweights.to_C)
        _convolve_backward(sizes, weights, line, d, dweights)
        _multiply(d.inner, wide, wide, transposed.to_x, width, rows, False, d.normed)
        _multiply(d.gate, wide, wide, transposed.to_z, width, rows, True, d.normed)
        _accumulate(line.normed, width, sizes.channels, d.inner, wide, rows, dweights.to_x)
        _accumulate(line.normed, width, sizes.channels, d.gate, wide, rows, dweights.to_z)
        _normalise_backward(sizes, weights.norm, line, d, dweights)
        _put(d.x, origin, reverse, sizes, dx)


@part_of_kernel()
def _steps_backward(sizes, weights, line, d, dweights):  # type: ignore[no-untyped-def]
    """From `d.delta` to what it adds to `d.u`, and the step weights' gradients."""
    wide, rank = sizes.wide, sizes.rank
    for i in range(sizes.length):
        for at in range(0, wide, LANES):
            raw = load(d.delta, i * wide + at) * sigmoid(load(line.raw, i * wide + at))
            store(d.raw, i * wide + at, raw)
            store(dweights.step_bias, at, load(dweights.step_bias, at) + raw)
        for r in range(rank):
            step, dstep, row = broadcast(line.step, i * rank + r), splat(_ZERO), r * wide
            for at in range(0, wide, LANES):
                raw = load(d.raw, i * wide + at)
                dstep = dstep + raw * load(weights.from_step, row + at)
                store(dweights.from_step, row + at, load(dweights.from_step, row + at) + raw * step)
            dstep = splat(total(dstep))
            for at in range(0, wide, LANES):
                u, du = load(line.u, i * wide + at), load(d.u, i * wide + at)
                store(d.u, i * wide + at, du + dstep * load(weights.to_step, row + at))
                store(dweights.to_step, row + at, load(dweights.to_step, row + at) + dstep * u)


@part_of_kernel()
def _convolve_backward(sizes, weights, line, d, dweights):  # type: ignore[no-untyped-def]
    """From `d.u` to `d.inner`, and the convolution's gradients."""
    wide, taps, rows = sizes.wide, sizes.taps, sizes.length
    for at in range(0, wide, LANES):
        bias = load(dweights.conv_bias, at)
        for i in range(rows):
            c = load(line.conv, i * wide + at)
            gate = sigmoid(c)
            dc = load(d.u, i * wide + at) * gate * (splat(_ONE) + c * (splat(_ONE) - gate))
            store(d.conv, i * wide + at, dc)
            bias = bias + dc
        store(dweights.conv_bias, at, bias)
        for tap in range(taps):
            lag = taps - 1 - tap
            s = load(dweights.conv, tap * wide + at)
            for i in range(lag, rows):
                s = s + load(d.conv, i * wide + at) * load(line.inner, (i - lag) * wide + at)
            store(dweights.conv, tap * wide + at, s)
        for i in range(rows):
            s = splat(_ZERO)
            for tap in range(max(0, taps - rows + i), taps):
                lag = taps - 1 - tap
                s = s + load(weights.conv, tap * wide + at) * load(d.conv, (i + lag) * wide + at)
            store(d.inner, i * wide + at, s)


@part_of_kernel()
def _normalise_backward(sizes, weight, line, d, dweights):  # type: ignore[no-untyped-def]
    """From `d.normed` and the residual `d.out` to `d.x`, and the norm's gradient."""
    width = sizes.width
    for i in range(sizes.length):
        root, product = splat(line.root[i]), splat(_ZERO)
        for c in range(0, width, LANES):
            at = i * width + c
            scaled = load(line.x, at) * root
            store(dweights.norm, c, load(dweights.norm, c) + load(d.normed, at) * scaled)
            product = product + load(d.normed, at) * load(weight, c) * scaled
        mean = splat(total(product) / np.float32(sizes.channels))
        for c in range(0, width, LANES):
            at = i * width + c
            change = load(d.normed, at) * load(weight, c) - load(line.x, at) * root * mean
            store(d.x, at, load(d.out, at) + root * change)
