"""Compiled loops of the Mamba mixer for the CPU: backward over a range of sequences.

The sequence is recomputed forward from its input; only the scan's checkpointed states are read. Layout and
legend are those of `mixer_loops`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rwsa.kernels.mixer_loops import gather, multiply, new_sequence, scan_inputs, scatter
from rwsa.kernels.scan_loops import scan_sequence_backward
from rwsa.kernels.simd import LANES, broadcast, kernel, load, part_of_kernel, sigmoid, splat, store, total

_ZERO, _ONE = np.float32(0), np.float32(1)


class TransposedWeights(NamedTuple):
    """The matrices of `Weights`, transposed."""

    to_x: np.ndarray  # D, C
    to_z: np.ndarray  # D, C
    to_B: np.ndarray  # N, D
    to_C: np.ndarray  # N, D
    out: np.ndarray  # C, D


@part_of_kernel()
def _add_outer_product(a, a_width, count, b, width, rows, out):  # type: ignore[no-untyped-def]
    """out [count, width] += a[:, :count]ᵀ @ b, a being [rows, a_width] and b [rows, width]."""
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


@kernel()
def mixer_backward(  # type: ignore[no-untyped-def]
    x, dout, sizes, epsilon, reverse, weights, transposed, states, dx, dweights, first, last
):
    """Gradients of `mixer_forward` for sequences first…last-1: dx is written, dweights are accumulated."""
    sequence, d = new_sequence(sizes), new_sequence(sizes)
    rows, wide, width = sizes.length, sizes.wide, sizes.width
    scan_layout = (rows, 1, wide, sizes.states, sizes.states_wide)
    for s in range(first, last):
        origin = (s // sizes.inner) * sizes.length * sizes.inner + s % sizes.inner
        gather(x, origin, reverse, sizes, sequence.x)
        gather(dout, origin, reverse, sizes, d.out)
        scan_inputs(sizes, epsilon, weights, sequence)
        multiply(d.out, width, sizes.channels, transposed.out, wide, rows, False, d.y)
        scan_sequence_backward(
            sequence.u, sequence.delta, weights.A2, sequence.B, sequence.C, weights.D, sequence.gate, False,
            scan_layout, 0, states, s, d.y, d.u, d.delta, dweights.A2, d.B, d.C, dweights.D, d.gate,
            sequence.y,
        )  # fmt: skip
        _add_outer_product(sequence.y, wide, wide, d.out, width, rows, dweights.out)
        _steps_backward(sizes, weights, sequence, d, dweights)
        multiply(d.B, sizes.states_wide, sizes.states, transposed.to_B, wide, rows, True, d.u)
        multiply(d.C, sizes.states_wide, sizes.states, transposed.to_C, wide, rows, True, d.u)
        _add_outer_product(sequence.u, wide, wide, d.B, sizes.states_wide, rows, dweights.to_B)
        _add_outer_product(sequence.u, wide, wide, d.C, sizes.states_wide, rows, dweights.to_C)
        _convolve_backward(sizes, weights, sequence, d, dweights)
        multiply(d.inner, wide, wide, transposed.to_x, width, rows, False, d.normed)
        multiply(d.gate, wide, wide, transposed.to_z, width, rows, True, d.normed)
        _add_outer_product(sequence.normed, width, sizes.channels, d.inner, wide, rows, dweights.to_x)
        _add_outer_product(sequence.normed, width, sizes.channels, d.gate, wide, rows, dweights.to_z)
        _normalise_backward(sizes, weights.norm, sequence, d, dweights)
        scatter(d.x, origin, reverse, sizes, dx)


@part_of_kernel()
def _steps_backward(sizes, weights, sequence, d, dweights):  # type: ignore[no-untyped-def]
    """Add the contribution of `d.delta` to `d.u`, and accumulate the step weights' gradients."""
    wide, rank = sizes.wide, sizes.rank
    for i in range(sizes.length):
        for at in range(0, wide, LANES):
            raw = load(d.delta, i * wide + at) * sigmoid(load(sequence.raw, i * wide + at))
            store(d.raw, i * wide + at, raw)
            store(dweights.step_bias, at, load(dweights.step_bias, at) + raw)
        for r in range(rank):
            step, dstep, row = broadcast(sequence.step, i * rank + r), splat(_ZERO), r * wide
            for at in range(0, wide, LANES):
                raw = load(d.raw, i * wide + at)
                dstep = dstep + raw * load(weights.from_step, row + at)
                store(dweights.from_step, row + at, load(dweights.from_step, row + at) + raw * step)
            dstep = splat(total(dstep))
            for at in range(0, wide, LANES):
                u, du = load(sequence.u, i * wide + at), load(d.u, i * wide + at)
                store(d.u, i * wide + at, du + dstep * load(weights.to_step, row + at))
                store(dweights.to_step, row + at, load(dweights.to_step, row + at) + dstep * u)


@part_of_kernel()
def _convolve_backward(sizes, weights, sequence, d, dweights):  # type: ignore[no-untyped-def]
    """Compute `d.inner` from `d.u`, and accumulate the convolution's gradients."""
    wide, taps, rows = sizes.wide, sizes.taps, sizes.length
    for at in range(0, wide, LANES):
        bias = load(dweights.conv_bias, at)
        for i in range(rows):
            c = load(sequence.conv, i * wide + at)
            gate = sigmoid(c)
            dc = load(d.u, i * wide + at) * gate * (splat(_ONE) + c * (splat(_ONE) - gate))
            store(d.conv, i * wide + at, dc)
            bias = bias + dc
        store(dweights.conv_bias, at, bias)
        for tap in range(taps):
            lag = taps - 1 - tap
            s = load(dweights.conv, tap * wide + at)
            for i in range(lag, rows):
                s = s + load(d.conv, i * wide + at) * load(sequence.inner, (i - lag) * wide + at)
            store(dweights.conv, tap * wide + at, s)
        for i in range(rows):
            s = splat(_ZERO)
            for tap in range(max(0, taps - rows + i), taps):
                lag = taps - 1 - tap
                s = s + load(weights.conv, tap * wide + at) * load(d.conv, (i + lag) * wide + at)
            store(d.inner, i * wide + at, s)


@part_of_kernel()
def _normalise_backward(sizes, weight, sequence, d, dweights):  # type: ignore[no-untyped-def]
    """Compute `d.x` from `d.normed` and the residual `d.out`, and accumulate the norm's gradient."""
    width = sizes.width
    for i in range(sizes.length):
        root, product = splat(sequence.inverse_rms[i]), splat(_ZERO)
        for c in range(0, width, LANES):
            at = i * width + c
            scaled = load(sequence.x, at) * root
            store(dweights.norm, c, load(dweights.norm, c) + load(d.normed, at) * scaled)
            product = product + load(d.normed, at) * load(weight, c) * scaled
        mean = splat(total(product) / np.float32(sizes.channels))
        for c in range(0, width, LANES):
            at = i * width + c
            change = load(d.normed, at) * load(weight, c) - load(sequence.x, at) * root * mean
            store(d.x, at, load(d.out, at) + root * change)
