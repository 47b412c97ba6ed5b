"""Triton kernels of the scan: one program processes one block of channels of a sequence.

The states `[BLOCK_D, N]` stay in registers. K steps at a time are unrolled, and their inputs are loaded
first, so that loads overlap. For the backward pass the state is saved before every J·K steps; that pass
recomputes the K states of its current steps from the saved state and holds them in registers. A scratch
buffer in global memory would allow a larger K but need a barrier between writing and reading; states that
exceed the registers spill to thread-local memory.

A sequence is passed as `(pointer, strides of outer, inner, length, last)` of a view `[outer, inner, length,
last]`, without a copy; offsets are 64 bits, since such a view may be large. Steps beyond the end load zeros,
which change neither the state nor a gradient. All arithmetic is float32, for any dtype loaded and stored.

Legend: S sequences (outer·inner), T length, D channels, BLOCK_D channels of a program (a power of two),
N states padded to a power of two, `count` of them real, K unrolled steps, J·K steps per saved state.
Suffixes: `_DN` (tile), `_D`, `_N` (block of channels, states), `_K` (one of these per step).
"""

# mypy: disable-error-code="no-untyped-def, assignment, var-annotated"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def scan_forward(
    u, delta, z, B, C, y, A2, D, states, inner, length, channels, count,
    BLOCK_D: tl.constexpr, N: tl.constexpr, K: tl.constexpr, J: tl.constexpr,
    REVERSE: tl.constexpr, GATE: tl.constexpr, SAVE: tl.constexpr,
):  # fmt: skip
    """Scan one block of channels of one sequence, written to `y`; one program each, channel blocks innermost.

    u, delta, z, y, B, C: sequences, z unused without GATE; A2 `[D, count]`, A times log2 e;
    D `[D]`; states `[S, ceil(T/JK), D, count]`, the state before every J·K steps, written where SAVE.
    """
    blocks, slots, channel_blocks = tl.cdiv(length, K), tl.cdiv(length, J * K), tl.cdiv(channels, BLOCK_D)
    sequence = tl.program_id(0) // channel_blocks
    d = tl.program_id(0) % channel_blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, N)
    tile, real = d[:, None] * count + n[None, :], (d < channels)[:, None] & (n < count)[None, :]
    A2_DN, D_D = tl.load(A2 + tile, mask=real, other=0.0), tl.load(D + d, mask=d < channels, other=0.0)
    outer_i, inner_i = tl.cast(sequence // inner, tl.int64), tl.cast(sequence % inner, tl.int64)
    u_at = u[0] + outer_i * u[1] + inner_i * u[2] + d * u[4]
    delta_at = delta[0] + outer_i * delta[1] + inner_i * delta[2] + d * delta[4]
    z_at = z[0] + outer_i * z[1] + inner_i * z[2] + d * z[4]
    B_at = B[0] + outer_i * B[1] + inner_i * B[2] + n * B[4]
    C_at = C[0] + outer_i * C[1] + inner_i * C[2] + n * C[4]
    y_at = y[0] + outer_i * y[1] + inner_i * y[2] + d * y[4]
    h_DN = tl.full([BLOCK_D, N], 0, tl.float32)
    for block in range(blocks):
        if SAVE:  # noqa: SIM102 (a constant, unlike the condition inside)
            if block % J == 0:
                slot = tl.cast(sequence, tl.int64) * slots + block // J
                tl.store(states + slot * channels * count + tile, h_DN, mask=real)
        u_K, delta_K, z_K, B_K, C_K = (), (), (), (), ()
        for k in tl.static_range(K):
            step = tl.cast(block, tl.int64) * K + k
            t = length - 1 - step if REVERSE else step
            real_d = d < tl.where(step < length, channels, 0)
            real_n = n < tl.where(step < length, count, 0)
            u_K += (tl.load(u_at + t * u[3], mask=real_d, other=0.0).to(tl.float32),)
            delta_K += (tl.load(delta_at + t * delta[3], mask=real_d, other=0.0).to(tl.float32),)
            B_K += (tl.load(B_at + t * B[3], mask=real_n, other=0.0).to(tl.float32),)
            C_K += (tl.load(C_at + t * C[3], mask=real_n, other=0.0).to(tl.float32),)
            if GATE:
                z_K += (tl.load(z_at + t * z[3], mask=real_d, other=0.0).to(tl.float32),)
        for k in tl.static_range(K):
            step = tl.cast(block, tl.int64) * K + k
            t = length - 1 - step if REVERSE else step
            drive_D = delta_K[k] * u_K[k]
            h_DN = tl.exp2(delta_K[k][:, None] * A2_DN) * h_DN + drive_D[:, None] * B_K[k][None, :]
            y_D = tl.sum(h_DN * C_K[k][None, :], axis=1) + D_D * u_K[k]
            if GATE:
                y_D *= z_K[k] / (1 + tl.exp(-z_K[k]))
            tl.store(y_at + t * y[3], y_D, mask=d < tl.where(step < length, channels, 0))


@triton.jit
def scan_backward(
    u, delta, z, B, C, dy, A2, D, states, du, ddelta, dz, dB, dC, dA, dD,
    sequences, groups, inner, length, channels, count,
    BLOCK_D: tl.constexpr, N: tl.constexpr, K: tl.constexpr, J: tl.constexpr,
    REVERSE: tl.constexpr, GATE: tl.constexpr,
):  # fmt: skip
    """Gradients of `scan_forward` for one block of channels of every `groups`-th sequence.

    du, ddelta, dz: sequences as u; dB, dC: sequences as B and C, and a last stride, from one block of
    channels' share to the next one's; dA `[groups, D, count]`, dD `[groups, D]`: a group's sums.
    """
    LN_2: tl.constexpr = 0.6931471805599453
    blocks, slots, channel_blocks = tl.cdiv(length, K), tl.cdiv(length, J * K), tl.cdiv(channels, BLOCK_D)
    group, channel_block = tl.program_id(0) // channel_blocks, tl.program_id(0) % channel_blocks
    d, n = channel_block * BLOCK_D + tl.arange(0, BLOCK_D), tl.arange(0, N)
    tile, real = d[:, None] * count + n[None, :], (d < channels)[:, None] & (n < count)[None, :]
    A2_DN, D_D = tl.load(A2 + tile, mask=real, other=0.0), tl.load(D + d, mask=d < channels, other=0.0)
    share = tl.cast(channel_block, tl.int64)
    dA_DN, dD_D = tl.full([BLOCK_D, N], 0, tl.float32), tl.full([BLOCK_D], 0, tl.float32)
    for sequence in range(group, sequences, groups):
        outer_i, inner_i = tl.cast(sequence // inner, tl.int64), tl.cast(sequence % inner, tl.int64)
        u_at = u[0] + outer_i * u[1] + inner_i * u[2] + d * u[4]
        delta_at = delta[0] + outer_i * delta[1] + inner_i * delta[2] + d * delta[4]
        z_at = z[0] + outer_i * z[1] + inner_i * z[2] + d * z[4]
        B_at = B[0] + outer_i * B[1] + inner_i * B[2] + n * B[4]
        C_at = C[0] + outer_i * C[1] + inner_i * C[2] + n * C[4]
        dy_at = dy[0] + outer_i * dy[1] + inner_i * dy[2] + d * dy[4]
        du_at = du[0] + outer_i * du[1] + inner_i * du[2] + d * du[4]
        ddelta_at = ddelta[0] + outer_i * ddelta[1] + inner_i * ddelta[2] + d * ddelta[4]
        dz_at = dz[0] + outer_i * dz[1] + inner_i * dz[2] + d * dz[4]
        dB_at = dB[0] + outer_i * dB[1] + inner_i * dB[2] + n * dB[4]
        dC_at = dC[0] + outer_i * dC[1] + inner_i * dC[2] + n * dC[4]
        dB_at, dC_at = dB_at + share * dB[5], dC_at + share * dC[5]
        carry_DN = tl.full([BLOCK_D, N], 0, tl.float32)
        for later in range(blocks):
            block = blocks - 1 - later
            slot = tl.cast(sequence, tl.int64) * slots + block // J
            h_DN = tl.load(states + slot * channels * count + tile, mask=real, other=0.0)
            for earlier in range(block // J * J, block):
                for k in tl.static_range(K):
                    step = tl.cast(earlier, tl.int64) * K + k
                    t = length - 1 - step if REVERSE else step
                    u_D = tl.load(u_at + t * u[3], mask=d < channels, other=0.0).to(tl.float32)
                    delta_D = tl.load(delta_at + t * delta[3], mask=d < channels, other=0.0).to(tl.float32)
                    B_N = tl.load(B_at + t * B[3], mask=n < count, other=0.0).to(tl.float32)
                    h_DN = tl.exp2(delta_D[:, None] * A2_DN) * h_DN + (delta_D * u_D)[:, None] * B_N[None, :]
            u_K, delta_K, z_K, B_K, C_K, dy_K, h_K = (), (), (), (), (), (), (h_DN,)
            for k in tl.static_range(K):
                step = tl.cast(block, tl.int64) * K + k
                t = length - 1 - step if REVERSE else step
                real_d = d < tl.where(step < length, channels, 0)
                real_n = n < tl.where(step < length, count, 0)
                u_K += (tl.load(u_at + t * u[3], mask=real_d, other=0.0).to(tl.float32),)
                delta_K += (tl.load(delta_at + t * delta[3], mask=real_d, other=0.0).to(tl.float32),)
                B_K += (tl.load(B_at + t * B[3], mask=real_n, other=0.0).to(tl.float32),)
                C_K += (tl.load(C_at + t * C[3], mask=real_n, other=0.0).to(tl.float32),)
                dy_K += (tl.load(dy_at + t * dy[3], mask=real_d, other=0.0).to(tl.float32),)
                if GATE:
                    z_K += (tl.load(z_at + t * z[3], mask=real_d, other=0.0).to(tl.float32),)
            for k in tl.static_range(K):
                drive_D = delta_K[k] * u_K[k]
                h_DN = tl.exp2(delta_K[k][:, None] * A2_DN) * h_DN + drive_D[:, None] * B_K[k][None, :]
                h_K += (h_DN,)
            for k in tl.static_range(K - 1, -1, -1):
                step = tl.cast(block, tl.int64) * K + k
                t = length - 1 - step if REVERSE else step
                real_d = d < tl.where(step < length, channels, 0)
                real_n = n < tl.where(step < length, count, 0)
                u_D, delta_D, dy_D = u_K[k], delta_K[k], dy_K[k]
                if GATE:
                    sigmoid_D = 1 / (1 + tl.exp(-z_K[k]))
                    y_D = tl.sum(h_K[k + 1] * C_K[k][None, :], axis=1) + D_D * u_D
                    dz_D = dy_D * y_D * sigmoid_D * (1 + z_K[k] * (1 - sigmoid_D))
                    tl.store(dz_at + t * dz[3], dz_D, mask=real_d)
                    dy_D *= z_K[k] * sigmoid_D
                dh_DN = carry_DN + dy_D[:, None] * C_K[k][None, :]
                dC_N = tl.sum(h_K[k + 1] * dy_D[:, None], axis=0)
                dB_N = tl.sum(dh_DN * (delta_D * u_D)[:, None], axis=0)
                tl.store(dC_at + t * dC[3], dC_N, mask=real_n)
                tl.store(dB_at + t * dB[3], dB_N, mask=real_n)
                drive_D = tl.sum(dh_DN * B_K[k][None, :], axis=1)
                carry_DN = tl.exp2(delta_D[:, None] * A2_DN) * dh_DN
                exponent_DN = carry_DN * h_K[k]
                ddelta_D = drive_D * u_D + tl.sum(exponent_DN * A2_DN, axis=1) * LN_2
                du_D = drive_D * delta_D + dy_D * D_D
                tl.store(ddelta_at + t * ddelta[3], ddelta_D, mask=real_d)
                tl.store(du_at + t * du[3], du_D, mask=real_d)
                dA_DN += exponent_DN * delta_D[:, None]
                dD_D += dy_D * u_D
    part = tl.cast(group, tl.int64) * channels
    tl.store(dA + part * count + tile, dA_DN, mask=real)
    tl.store(dD + part + d, dD_D, mask=d < channels)
