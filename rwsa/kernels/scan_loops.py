"""Compiled scan loops for the CPU: forward and backward over a range of sequences.

A sequence is one (outer, inner) pair of `[outer, length, inner, channel]`, so the same loops scan the
frequency axis of `[batch·time, frequency, 1, channel]` and the time axis of `[batch, time, frequency,
channel]` without copies. Arrays are flat (contiguous float32 `[size]`). Channels are processed `LANES` at a
time over the whole sequence, so that a group's states stay in the L1 cache.

The loops release the GIL and start no threads; `rwsa.kernels.threads` distributes ranges of sequences.

Legend: S sequences, T length, D channels (a multiple of LANES), G groups of LANES channels, N states,
K steps between saved states.
"""

from __future__ import annotations

import numpy as np

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
    total,
)

CHECKPOINT_STEPS = 32
_ZERO, _ONE = np.float32(0), np.float32(1)


@kernel()
def exp2_of(x, out):  # type: ignore[no-untyped-def]
    """`out[:] = 2**x` for sizes that are multiples of LANES; exposes the approximation to its test."""
    for at in range(0, x.size, LANES):
        store(out, at, exp2(load(x, at)))


@kernel()
def scan_forward(u, delta, A2, B, C, D, z, reverse, save, shape, y, states, first, last):  # type: ignore[no-untyped-def]
    """Scan sequences first…last-1 of `u`, written to `y`.

    u, delta, z, y: [outer, T, inner, D], z empty without a gate; B, C: [outer, T, inner, N];
    A2: [G, N, LANES], A times log2 e; D: [D]; shape: (T, inner, D, N);
    states: [S, G, ceil(T/K), N, LANES], the state before each block of K steps, written where `save`.
    """
    length, inner, channels, count = shape
    line = (length, inner, channels, count, count)
    for s in range(first, last):
        origin = (s // inner) * length * inner + s % inner
        scan_sequence(u, delta, A2, B, C, D, z, reverse, save, line, origin, y, states, s)


@part_of_kernel()
def scan_sequence(u, delta, A2, B, C, D, z, reverse, save, line, origin, y, states, s):  # type: ignore[no-untyped-def]
    """Scan sequence number `s`, which starts at row `origin`.

    line: (T, rows from one step to the next, D, N, floats from one row of B and C to the next).
    """
    length, inner, channels, count, wide = line
    blocks = (length + CHECKPOINT_STEPS - 1) // CHECKPOINT_STEPS
    block_size = count * LANES
    h = np.empty(block_size, np.float32)
    for group in range(channels // LANES):
        h[:] = _ZERO
        D_g = load(D, group * LANES)
        for step in range(length):
            t = length - 1 - step if reverse else step
            row = origin + t * inner
            if save and step % CHECKPOINT_STEPS == 0:
                slot = ((s * (channels // LANES) + group) * blocks + step // CHECKPOINT_STEPS) * block_size
                for at in range(0, block_size, LANES):
                    store(states, slot + at, load(h, at))
            at_d = row * channels + group * LANES
            u_t, delta_t = load(u, at_d), load(delta, at_d)
            drive, y_t = delta_t * u_t, D_g * u_t
            for n in range(count):
                decay = exp2(delta_t * load(A2, group * block_size + n * LANES))
                h_n = decay * load(h, n * LANES) + drive * broadcast(B, row * wide + n)
                store(h, n * LANES, h_n)
                y_t = y_t + h_n * broadcast(C, row * wide + n)
            if z.size > 0:
                z_t = load(z, at_d)
                y_t = y_t * z_t * sigmoid(z_t)
            store(y, at_d, y_t)


@kernel()
def scan_backward(  # type: ignore[no-untyped-def]
    u, delta, A2, B, C, D, z, reverse, shape, states, dy, du, ddelta, dA, dB, dC, dD, dz, part, first, last
):
    """Gradients of `scan_forward` for sequences first…last-1.

    dy: as y; du, ddelta, dz, dB, dC are written; dA [parts, G, N, LANES] and dD [parts, D] are accumulated
    at index `part`, and the caller sums the parts in a fixed order.
    """
    length, inner, channels, count = shape
    line = (length, inner, channels, count, count)
    no_output = np.empty(0, np.float32)
    part_A, part_D = dA[part * channels * count :], dD[part * channels :]
    for s in range(first, last):
        origin = (s // inner) * length * inner + s % inner
        scan_sequence_backward(
            u, delta, A2, B, C, D, z, reverse, line, origin, states, s,
            dy, du, ddelta, part_A, dB, dC, part_D, dz, no_output,
        )  # fmt: skip


@part_of_kernel()
def scan_sequence_backward(  # type: ignore[no-untyped-def]
    u, delta, A2, B, C, D, z, reverse, line, origin, states, s, dy, du, ddelta, dA, dB, dC, dD, dz, y
):
    """Gradients of `scan_sequence`: dA [G, N, LANES] and dD [D] are accumulated, the others written.

    y: the scan's output is written here again, unless it is empty.
    """
    length, inner, channels, count, wide = line
    groups, block_size = channels // LANES, count * LANES
    blocks = (length + CHECKPOINT_STEPS - 1) // CHECKPOINT_STEPS
    h = np.empty((CHECKPOINT_STEPS + 1) * block_size, np.float32)
    decay = np.empty(CHECKPOINT_STEPS * block_size, np.float32)
    ungated = np.empty(CHECKPOINT_STEPS * LANES, np.float32)
    carry = np.empty(block_size, np.float32)
    for group in range(groups):
        carry[:] = _ZERO
        at_A, at_D = group * block_size, group * LANES
        D_g, dD_g = load(D, at_D), load(dD, at_D)
        for block in range(blocks - 1, -1, -1):
            begin = block * CHECKPOINT_STEPS
            steps = min(CHECKPOINT_STEPS, length - begin)
            slot = ((s * groups + group) * blocks + block) * block_size
            for at in range(0, block_size, LANES):
                store(h, at, load(states, slot + at))
            # Recompute the block forward, storing states and decays.
            for k in range(steps):
                row = origin + (length - 1 - begin - k if reverse else begin + k) * inner
                at_d = row * channels + at_D
                u_t, delta_t, dy_t = load(u, at_d), load(delta, at_d), load(dy, at_d)
                drive, y_t = delta_t * u_t, D_g * u_t
                for n in range(count):
                    at = k * block_size + n * LANES
                    decay_n = exp2(delta_t * load(A2, at_A + n * LANES))
                    h_n = decay_n * load(h, at) + drive * broadcast(B, row * wide + n)
                    store(decay, at, decay_n)
                    store(h, at + block_size, h_n)
                    y_t = y_t + h_n * broadcast(C, row * wide + n)
                if z.size > 0:
                    z_t = load(z, at_d)
                    gate = sigmoid(z_t)
                    store(dz, at_d, dy_t * y_t * gate * (splat(_ONE) + z_t * (splat(_ONE) - gate)))
                    dy_t, y_t = dy_t * z_t * gate, y_t * z_t * gate
                store(ungated, k * LANES, dy_t)
                if y.size > 0:
                    store(y, at_d, y_t)
            # Backward through the block, carrying the state's gradient.
            for k in range(steps - 1, -1, -1):
                row = origin + (length - 1 - begin - k if reverse else begin + k) * inner
                at_d = row * channels + at_D
                u_t, delta_t, dy_t = load(u, at_d), load(delta, at_d), load(ungated, k * LANES)
                drive, d_drive, d_log = delta_t * u_t, splat(_ZERO), splat(_ZERO)
                for n in range(count):
                    at, at_n, at_row = k * block_size + n * LANES, n * LANES, row * wide + n
                    d_h = load(carry, at_n) + dy_t * broadcast(C, at_row)
                    dC_n, dB_n = total(load(h, at + block_size) * dy_t), total(d_h * drive)
                    dC[at_row] = dC_n if group == 0 else dC[at_row] + dC_n
                    dB[at_row] = dB_n if group == 0 else dB[at_row] + dB_n
                    d_drive = d_drive + d_h * broadcast(B, at_row)
                    d_h = d_h * load(decay, at)
                    store(carry, at_n, d_h)
                    of_exponent = d_h * load(h, at)
                    d_log = d_log + of_exponent * load(A2, at_A + at_n)
                    store(dA, at_A + at_n, load(dA, at_A + at_n) + of_exponent * delta_t)
                store(du, at_d, dy_t * D_g + d_drive * delta_t)
                store(ddelta, at_d, d_drive * u_t + d_log * splat(LN_2))
                dD_g = dD_g + dy_t * u_t
        store(dD, at_D, dD_g)
