"""Compiled loops of a bidirectional Mamba mixer for the CPU: backward over a range of groups of sequences.

Chunks are visited from a sequence's end, each recomputed forward from the input and the state before it.
Layout and legend are those of `mixer_loops`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rwsa.kernels.lane_loops import add_outer_products, gather, locate, project, scatter
from rwsa.kernels.mixer_loops import new_chunk, normalise, scan_inputs
from rwsa.kernels.simd import (
    LANES,
    LN_2,
    broadcast,
    exp2,
    kernel,
    load,
    part_of_kernel,
    sigmoid,
    splat,
    store,
)

_ZERO, _ONE = np.float32(0), np.float32(1)


class Sums(NamedTuple):
    """Gradients of the weights; products as `add_outer_products` has them, the others once a lane."""

    norm: np.ndarray  # C
    in_proj: np.ndarray  # 2 D by C
    conv: np.ndarray  # D, taps
    conv_bias: np.ndarray  # D
    x_proj: np.ndarray  # D by 2 N + R
    dt_proj: np.ndarray  # D by R
    dt_bias: np.ndarray  # D
    A2: np.ndarray  # D, N; of A times ln 2
    D: np.ndarray  # D
    out: np.ndarray  # D by C
    merge: np.ndarray  # C by C
    bias: np.ndarray  # C


@part_of_kernel()
def _scan_backward(sizes, weights, rows, state, carry, scratch, chunk, d, sums):  # type: ignore[no-untyped-def]
    """Gradients of the scan and its gate from `d.y`; also computes `chunk.y`.

    carry: the state's gradient; scratch: 8 K + 4 vectors, for four states' values and decays.
    """
    d.small[:] = _ZERO
    for c in range(0, sizes.inner, 2):
        _start_line(sizes, weights.D, rows, c, 0, chunk, d)
        _start_line(sizes, weights.D, rows, c + 1, sizes.steps * LANES, chunk, d)
        for n in range(0, sizes.states, 2):
            _pairs_forward(sizes, weights.A2, rows, c, n, state, scratch, chunk)
            _pairs_backward(sizes, weights.A2, rows, c, n, carry, scratch, chunk, d, sums.A2)
        _end_line(sizes, weights.D, rows, c, 0, chunk, d, sums.D)
        _end_line(sizes, weights.D, rows, c + 1, sizes.steps * LANES, chunk, d, sums.D)


@part_of_kernel()
def _start_line(sizes, D, rows, c, to, chunk, d):  # type: ignore[no-untyped-def]
    """Begin channel c: chunk.line's outputs before the gate, then their gradients; d.line is 0."""
    above = 2 * sizes.steps * LANES
    for k in range(rows):
        at, at_z = (k * sizes.wide + c) * LANES, ((k + sizes.head) * sizes.double + sizes.inner + c) * LANES
        z = load(chunk.xz, at_z)
        gate = sigmoid(z)
        store(d.xz, at_z, gate)
        store(chunk.line, to, broadcast(D, c) * load(chunk.u, at))
        store(chunk.line, to + above, load(d.y, at) * z * gate)
        store(d.line, to, splat(_ZERO))
        store(d.line, to + above, splat(_ZERO))
        to += LANES


@part_of_kernel()
def _end_line(sizes, D, rows, c, to, chunk, d, sums):  # type: ignore[no-untyped-def]
    """Finish channel c: its output, and the gradients of gate, u, delta and D."""
    above, dD = 2 * sizes.steps * LANES, load(sums, c * LANES)
    for k in range(rows):
        at, at_z = (k * sizes.wide + c) * LANES, ((k + sizes.head) * sizes.double + sizes.inner + c) * LANES
        z, gate, y, u = load(chunk.xz, at_z), load(d.xz, at_z), load(chunk.line, to), load(chunk.u, at)
        gated, dy, d_drive = z * gate, load(chunk.line, to + above), load(d.line, to)
        store(d.xz, at_z, load(d.y, at) * y * (gate + gated * (splat(_ONE) - gate)))
        store(chunk.y, at, y * gated)
        store(d.u, at, dy * broadcast(D, c) + d_drive * load(chunk.delta, at))
        store(d.delta, at, d_drive * u + load(d.line, to + above) * splat(LN_2))
        dD, to = dD + dy * u, to + LANES
    store(sums, c * LANES, dD)


@part_of_kernel()
def _pairs_forward(sizes, A2, rows, c, n, state, scratch, chunk):  # type: ignore[no-untyped-def]
    """States n and n + 1 of channels c and c + 1 after every step, and their decays; adds to `line`."""
    count, second, decays = sizes.states, sizes.steps * LANES, 4 * (sizes.steps + 1) * LANES
    at_0, at_1 = (c * count + n) * LANES, ((c + 1) * count + n) * LANES
    h00, h01 = load(state, at_0), load(state, at_0 + LANES)
    h10, h11 = load(state, at_1), load(state, at_1 + LANES)
    a00, a01 = broadcast(A2, c * count + n), broadcast(A2, c * count + n + 1)
    a10, a11 = broadcast(A2, (c + 1) * count + n), broadcast(A2, (c + 1) * count + n + 1)
    store(scratch, 0, h00)
    store(scratch, LANES, h01)
    store(scratch, 2 * LANES, h10)
    store(scratch, 3 * LANES, h11)
    for k in range(rows):
        at, at_B = (k * sizes.wide + c) * LANES, (k * sizes.small + n) * LANES
        at_C, to = at_B + count * LANES, decays + 4 * k * LANES
        B0, B1 = load(chunk.small, at_B), load(chunk.small, at_B + LANES)
        C0, C1 = load(chunk.small, at_C), load(chunk.small, at_C + LANES)
        delta = load(chunk.delta, at)
        drive, p, q = delta * load(chunk.u, at), exp2(delta * a00), exp2(delta * a01)
        h00, h01 = p * h00 + drive * B0, q * h01 + drive * B1
        store(scratch, to, p)
        store(scratch, to + LANES, q)
        store(chunk.line, k * LANES, load(chunk.line, k * LANES) + h00 * C0 + h01 * C1)
        delta = load(chunk.delta, at + LANES)
        drive, p, q = delta * load(chunk.u, at + LANES), exp2(delta * a10), exp2(delta * a11)
        h10, h11 = p * h10 + drive * B0, q * h11 + drive * B1
        store(scratch, to + 2 * LANES, p)
        store(scratch, to + 3 * LANES, q)
        line, to = k * LANES + second, 4 * (k + 1) * LANES
        store(chunk.line, line, load(chunk.line, line) + h10 * C0 + h11 * C1)
        store(scratch, to, h00)
        store(scratch, to + LANES, h01)
        store(scratch, to + 2 * LANES, h10)
        store(scratch, to + 3 * LANES, h11)


@part_of_kernel()
def _pairs_backward(sizes, A2, rows, c, n, carry, scratch, chunk, d, dA):  # type: ignore[no-untyped-def]
    """Back through what `_pairs_forward` computed: adds to the gradients of B, C and A, and to `d.line`."""
    count, line, decays = sizes.states, sizes.steps * LANES, 4 * (sizes.steps + 1) * LANES
    at_0, at_1 = (c * count + n) * LANES, ((c + 1) * count + n) * LANES
    g00, g01 = load(carry, at_0), load(carry, at_0 + LANES)
    g10, g11 = load(carry, at_1), load(carry, at_1 + LANES)
    dA00, dA01 = load(dA, at_0), load(dA, at_0 + LANES)
    dA10, dA11 = load(dA, at_1), load(dA, at_1 + LANES)
    a00, a01 = broadcast(A2, c * count + n), broadcast(A2, c * count + n + 1)
    a10, a11 = broadcast(A2, (c + 1) * count + n), broadcast(A2, (c + 1) * count + n + 1)
    for k in range(rows - 1, -1, -1):
        at, at_B, at_h = (k * sizes.wide + c) * LANES, (k * sizes.small + n) * LANES, 4 * k * LANES
        at_C, next_h, at_decay, to = at_B + count * LANES, at_h + 4 * LANES, decays + at_h, k * LANES
        B0, B1 = load(chunk.small, at_B), load(chunk.small, at_B + LANES)
        C0, C1 = load(chunk.small, at_C), load(chunk.small, at_C + LANES)
        dy_0, dy_1 = load(chunk.line, to + 2 * line), load(chunk.line, to + 3 * line)
        delta_0, delta_1 = load(chunk.delta, at), load(chunk.delta, at + LANES)
        drive_0, drive_1 = delta_0 * load(chunk.u, at), delta_1 * load(chunk.u, at + LANES)
        store(
            d.small,
            at_C,
            load(d.small, at_C) + load(scratch, next_h) * dy_0 + load(scratch, next_h + 2 * LANES) * dy_1,
        )
        store(
            d.small,
            at_C + LANES,
            load(d.small, at_C + LANES)
            + load(scratch, next_h + LANES) * dy_0
            + load(scratch, next_h + 3 * LANES) * dy_1,
        )
        g00, g01 = g00 + dy_0 * C0, g01 + dy_0 * C1
        g10, g11 = g10 + dy_1 * C0, g11 + dy_1 * C1
        store(d.small, at_B, load(d.small, at_B) + g00 * drive_0 + g10 * drive_1)
        store(d.small, at_B + LANES, load(d.small, at_B + LANES) + g01 * drive_0 + g11 * drive_1)
        store(d.line, to, load(d.line, to) + g00 * B0 + g01 * B1)
        store(d.line, to + line, load(d.line, to + line) + g10 * B0 + g11 * B1)
        g00, g01 = g00 * load(scratch, at_decay), g01 * load(scratch, at_decay + LANES)
        g10, g11 = g10 * load(scratch, at_decay + 2 * LANES), g11 * load(scratch, at_decay + 3 * LANES)
        p, q = g00 * load(scratch, at_h), g01 * load(scratch, at_h + LANES)
        store(d.line, to + 2 * line, load(d.line, to + 2 * line) + p * a00 + q * a01)
        dA00, dA01 = dA00 + p * delta_0, dA01 + q * delta_0
        p, q = g10 * load(scratch, at_h + 2 * LANES), g11 * load(scratch, at_h + 3 * LANES)
        store(d.line, to + 3 * line, load(d.line, to + 3 * line) + p * a10 + q * a11)
        dA10, dA11 = dA10 + p * delta_1, dA11 + q * delta_1
    store(carry, at_0, g00)
    store(carry, at_0 + LANES, g01)
    store(carry, at_1, g10)
    store(carry, at_1 + LANES, g11)
    store(dA, at_0, dA00)
    store(dA, at_0 + LANES, dA01)
    store(dA, at_1, dA10)
    store(dA, at_1 + LANES, dA11)


@part_of_kernel()
def _inputs_backward(sizes, weights, rows, chunk, d, sums):  # type: ignore[no-untyped-def]
    """Compute `d.gate`, the gradient before the convolution's SiLU, from those of the scan's inputs."""
    inner, wide, small, states = sizes.inner, sizes.wide, sizes.small, 2 * sizes.states
    for c in range(inner):
        bias = load(sums.dt_bias, c * LANES)
        for k in range(rows):
            at = (k * wide + c) * LANES
            raw = load(d.delta, at) * sigmoid(load(chunk.raw, at))
            store(d.raw, at, raw)
            bias = bias + raw
        store(sums.dt_bias, c * LANES, bias)
    steps, d_steps = chunk.small[states * LANES :], d.small[states * LANES :]
    project(weights.dt_proj, 1, sizes.rank, sizes.rank, inner, d.raw, wide, rows, False, d_steps, small)
    add_outer_products(d.raw, wide, inner, steps, small, sizes.rank, rows, sums.dt_proj)
    project(weights.x_proj, 1, inner, inner, states + sizes.rank, d.small, small, rows, True, d.u, wide)
    add_outer_products(chunk.u, wide, inner, d.small, small, states + sizes.rank, rows, sums.x_proj)
    for c in range(inner):
        bias = load(sums.conv_bias, c * LANES)
        for k in range(rows):
            at = (k * wide + c) * LANES
            gate = load(chunk.gate, at)
            dv = load(d.u, at) * (gate + load(chunk.u, at) * (splat(_ONE) - gate))
            store(d.gate, at, dv)
            bias = bias + dv
        store(sums.conv_bias, c * LANES, bias)


@part_of_kernel()
def _convolve_backward(sizes, weights, rows, chunk, d, sums):  # type: ignore[no-untyped-def]
    """Compute x's half of `d.xz` from `d.gate`, whose H steps after the chunk's are those of the next one."""
    wide, double, lag = sizes.wide, sizes.double, sizes.taps - 1
    for c in range(sizes.inner):
        for tap in range(sizes.taps):
            to = (c * sizes.taps + tap) * LANES
            s, before = load(sums.conv, to), (sizes.head - lag + tap) * double + c
            for k in range(rows):
                s = s + load(d.gate, (k * wide + c) * LANES) * load(chunk.xz, (before + k * double) * LANES)
            store(sums.conv, to, s)
        for k in range(rows):
            s = splat(_ZERO)
            for tap in range(sizes.taps):
                w = broadcast(weights.conv, c * sizes.taps + tap)
                s = s + w * load(d.gate, ((k + lag - tap) * wide + c) * LANES)
            store(d.xz, ((k + sizes.head) * double + c) * LANES, s)


@part_of_kernel()
def _normalise_backward(sizes, weight, rows, chunk, d, sums):  # type: ignore[no-untyped-def]
    """Add to `d.x` from `d.normed`, and to the gradient of the norm's weight."""
    narrow, channels, head = sizes.narrow, sizes.channels, sizes.head
    for k in range(rows):
        root, product, row = load(chunk.inverse_rms, (head + k) * LANES), splat(_ZERO), k * narrow * LANES
        x_row = row + head * narrow * LANES
        for c in range(channels):
            scaled = load(chunk.x, x_row + c * LANES) * root
            dn = load(d.normed, row + c * LANES)
            store(sums.norm, c * LANES, load(sums.norm, c * LANES) + dn * scaled)
            product = product + dn * broadcast(weight, c) * scaled
        mean = product * splat(_ONE / np.float32(sizes.true_channels)) * root
        for c in range(channels):
            at = row + c * LANES
            change = load(d.normed, at) * broadcast(weight, c) - load(chunk.x, x_row + c * LANES) * mean
            store(d.x, at, load(d.x, at) + root * change)


@part_of_kernel()
def _merge_backward(sizes, rows, merge, chunk, d, sums):  # type: ignore[no-untyped-def]
    """Compute `d.x` from what the output has of x itself, with the gradients of `merge` and the bias."""
    narrow, channels = sizes.narrow, sizes.channels
    x = chunk.x[sizes.head * narrow * LANES :]
    for k in range(rows):
        for c in range(channels):
            at = c * LANES
            store(sums.bias, at, load(sums.bias, at) + load(d.out, k * narrow * LANES + at))
    project(merge, 1, channels, channels, channels, d.out, narrow, rows, False, d.x, narrow)
    add_outer_products(d.out, narrow, channels, x, narrow, channels, rows, sums.merge)


@kernel()
def mixer_backward(  # type: ignore[no-untyped-def]
    x, dout, lines, sizes, ends, epsilon, reverse, weights, merge, dx, states, work, sums, first, last
):
    """Gradients of `mixer_forward`: dx is written, or in reverse added to; those of weights add to `sums`.

    work: two chunks, the second with the gradients of the first; the state's gradient; 8 K + 4 vectors.
    """
    chunk, d = new_chunk(work, ends), new_chunk(work[ends[-1] :], ends)
    size, narrow, wide, double = sizes.inner * sizes.states * LANES, sizes.narrow, sizes.wide, sizes.double
    channels, inner, head = sizes.channels, sizes.inner, sizes.head * LANES
    carry = work[2 * ends[-1] : 2 * ends[-1] + size]
    scratch = work[2 * ends[-1] + size :]
    chunks = (lines[0] + sizes.steps - 1) // sizes.steps
    offsets = np.empty(LANES, np.int64)
    for group in range(first, last):
        count = locate(lines, group * LANES, offsets)
        carry[:] = _ZERO
        # The H steps of `d.gate` after the chunk's.
        d.gate[:] = _ZERO
        for number in range(chunks - 1, -1, -1):
            begin = number * sizes.steps
            rows = min(sizes.steps, (lines[0] - begin + 3) // 4 * 4)
            at = (group * chunks + number) * size
            gather(x, lines, offsets, count, begin - sizes.head, sizes.head + rows, reverse, chunk.x, narrow)
            gather(dout, lines, offsets, count, begin, rows, reverse, d.out, narrow)
            normalise(
                sizes, epsilon, weights.norm, sizes.head + rows, chunk.x, chunk.inverse_rms, chunk.normed
            )
            project(
                weights.in_proj, channels, 1, inner, channels, chunk.normed, narrow, sizes.head, False,
                chunk.xz, double,
            )  # fmt: skip
            project(
                weights.in_proj, channels, 1, 2 * inner, channels, chunk.normed[head * narrow :], narrow,
                rows, False, chunk.xz[head * double :], double,
            )  # fmt: skip
            scan_inputs(sizes, weights, rows, chunk)
            project(weights.out, 1, inner, inner, channels, d.out, narrow, rows, False, d.y, wide)
            _scan_backward(sizes, weights, rows, states[at : at + size], carry, scratch, chunk, d, sums)
            add_outer_products(chunk.y, wide, inner, d.out, narrow, channels, rows, sums.out)
            _inputs_backward(sizes, weights, rows, chunk, d, sums)
            _convolve_backward(sizes, weights, rows, chunk, d, sums)
            # The convolution of the chunk before contributed to the first H steps of this one.
            d.gate[sizes.steps * wide * LANES :] = d.gate[: head * wide]
            project(
                weights.in_proj, 1, channels, channels, 2 * inner, d.xz[head * double :], double, rows, False,
                d.normed, narrow,
            )  # fmt: skip
            add_outer_products(
                d.xz[head * double :], double, 2 * inner, chunk.normed[head * narrow :], narrow, channels,
                rows, sums.in_proj,
            )  # fmt: skip
            if reverse:
                d.x[:] = _ZERO
            else:
                _merge_backward(sizes, rows, merge, chunk, d, sums)
            _normalise_backward(sizes, weights.norm, rows, chunk, d, sums)
            scatter(d.x, narrow, lines, offsets, count, begin, rows, reverse, reverse, dx)
