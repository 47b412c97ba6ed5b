"""Compiled loops of the CPU scan: forward and backward over a range of sequences.

Arrays are C-contiguous float32. A sequence is one (outer, inner) pair of `[outer, length, inner,
channel]`, so the same kernels scan the frequency axis of `[batch·time, frequency, 1, channel]` and
the time axis of `[batch, time, frequency, channel]` where they lie. The channel is innermost because
it is what the vector units run along; the state is outside it.

The kernels release the GIL and start no threads: `rwsa.scan.cpu` hands ranges to its own pool.

Legend: S sequences, T length, D channels, N states, K steps between saved states.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

CHECKPOINT_STEPS = 32
LOG2_E = np.float32(1.4426950408889634)

_LOWEST, _ROUNDER = np.float32(-126.0), np.float32(1.5 * 2**23)
_ONE, _LN_2 = np.float32(1.0), np.float32(0.6931471805599453)
# 2^f on [-0.5, 0.5], minimax in relative error: 7.5e-8 before rounding.
_C0, _C1, _C2 = np.float32(1.0000000716546416), np.float32(0.6931469670652649), np.float32(0.2402211972396918)
_C3, _C4, _C5 = np.float32(0.0555071327287539), np.float32(0.0096755413310214), np.float32(0.0013276472167820)
_MANTISSA_BITS = np.int32(23)

_FLAGS = {"nnan", "ninf", "nsz", "arcp", "contract", "afn"}
_compiled = njit(nogil=True, fastmath=_FLAGS, boundscheck=False, error_model="numpy", cache=True)


def _bitcast(source: Any, target: Any, llvm_type: ir.Type) -> Any:
    """A reinterpreting cast that LLVM vectorises, as it would not a NumPy view of one element."""

    @intrinsic
    def cast(typing_context: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], llvm_type)

        return target(source), generate

    return cast


_float_of_bits = _bitcast(types.int32, types.float32, ir.FloatType())
_bits_of_float = _bitcast(types.float32, types.int32, ir.IntType(32))


@njit(inline="always")
def _exp2(x):  # type: ignore[no-untyped-def]
    """2^x in float32 for x ≤ 126; below -126 it stays at 2^-126.

    Adding 1.5·2^23 rounds x to an integer and leaves that integer in the low bits of the sum, whence
    it is shifted into the exponent of the polynomial's value. Reassociation would undo the rounding,
    so these kernels are compiled without it.
    """
    x = max(x, _LOWEST)
    shifted = x + _ROUNDER
    f = x - (shifted - _ROUNDER)
    mantissa = _C0 + f * (_C1 + f * (_C2 + f * (_C3 + f * (_C4 + f * _C5))))
    return _float_of_bits(_bits_of_float(mantissa) + (_bits_of_float(shifted) << _MANTISSA_BITS))


@_compiled
def exp2(x, out):  # type: ignore[no-untyped-def]
    """`out[:] = 2**x`, element by element: the approximation on its own, for its test."""
    for i in range(x.size):
        out[i] = _exp2(x[i])


@_compiled
def scan_forward(u, delta, A2, B, C, D, z, gated, reverse, y, states, save, first, last):  # type: ignore[no-untyped-def]
    """Scan sequences first…last-1 of `u` into `y`.

    u, delta, z, y: [outer, T, inner, D]; B, C: [outer, T, inner, N]; A2: [N, D], A times log2 e;
    states: [S, ceil(T/K), N, D], the state before each block of K steps, written where `save`.
    """
    length, inner, channels = u.shape[1], u.shape[2], u.shape[3]
    count = A2.shape[0]
    h = np.empty((count, channels), np.float32)
    drive = np.empty(channels, np.float32)
    total = np.empty(channels, np.float32)
    for s in range(first, last):
        o, i = s // inner, s % inner
        h[:] = np.float32(0)
        for step in range(length):
            t = length - 1 - step if reverse else step
            if save and step % CHECKPOINT_STEPS == 0:
                states[s, step // CHECKPOINT_STEPS] = h
            u_t, delta_t, y_t = u[o, t, i], delta[o, t, i], y[o, t, i]
            for d in range(channels):
                drive[d] = delta_t[d] * u_t[d]
                total[d] = D[d] * u_t[d]
            for n in range(count):
                h_n, A_n, b, c = h[n], A2[n], B[o, t, i, n], C[o, t, i, n]
                for d in range(channels):
                    h_n[d] = _exp2(delta_t[d] * A_n[d]) * h_n[d] + drive[d] * b
                    total[d] += h_n[d] * c
            if gated:
                z_t = z[o, t, i]
                for d in range(channels):
                    y_t[d] = total[d] * z_t[d] / (_ONE + _exp2(-LOG2_E * z_t[d]))
            else:
                for d in range(channels):
                    y_t[d] = total[d]


@_compiled
def scan_backward(  # type: ignore[no-untyped-def]
    u, delta, A2, B, C, D, z, gated, reverse, states, dy, du, ddelta, dA, dB, dC, dD, dz, slot, first, last
):
    """Gradients of `scan_forward` for sequences first…last-1.

    dy: as y; du, ddelta, dz, dB, dC are written; dA [slots, N, D] (for A itself, not A2) and
    dD [slots, D] are added to at `slot`, whose sum the caller takes in a fixed order.
    """
    length, inner, channels = u.shape[1], u.shape[2], u.shape[3]
    count = A2.shape[0]
    h = np.empty((CHECKPOINT_STEPS + 1, count, channels), np.float32)
    decay = np.empty((CHECKPOINT_STEPS, count, channels), np.float32)
    carry = np.empty((count, channels), np.float32)
    gate = np.empty((4, channels), np.float32)
    drive, dy_t, d_drive, d_log = gate[0], gate[1], gate[2], gate[3]
    for s in range(first, last):
        o, i = s // inner, s % inner
        carry[:] = np.float32(0)
        for block in range((length - 1) // CHECKPOINT_STEPS, -1, -1):
            begin = block * CHECKPOINT_STEPS
            steps = min(CHECKPOINT_STEPS, length - begin)
            h[0] = states[s, block]
            for k in range(steps):
                t = length - 1 - begin - k if reverse else begin + k
                u_t, delta_t = u[o, t, i], delta[o, t, i]
                for d in range(channels):
                    drive[d] = delta_t[d] * u_t[d]
                for n in range(count):
                    _advance(h[k, n], h[k + 1, n], decay[k, n], delta_t, A2[n], drive, B[o, t, i, n])
            for k in range(steps - 1, -1, -1):
                t = length - 1 - begin - k if reverse else begin + k
                u_t, delta_t, ddelta_t, du_t = u[o, t, i], delta[o, t, i], ddelta[o, t, i], du[o, t, i]
                if gated:
                    _ungate(h[k + 1], C[o, t, i], D, u_t, z[o, t, i], dy[o, t, i], dy_t, dz[o, t, i], drive)
                else:
                    dy_t[:] = dy[o, t, i]
                for d in range(channels):
                    drive[d] = delta_t[d] * u_t[d]
                    d_drive[d] = np.float32(0)
                    d_log[d] = np.float32(0)
                for n in range(count):
                    c, b = C[o, t, i, n], B[o, t, i, n]
                    dC[o, t, i, n] = _dot(h[k + 1, n], dy_t)
                    _absorb(carry[n], dy_t, c)
                    dB[o, t, i, n] = _dot(carry[n], drive)
                    _add_scaled(d_drive, carry[n], b)
                    _retreat(carry[n], decay[k, n], h[k, n], A2[n], delta_t, d_log, dA[slot, n])
                for d in range(channels):
                    du_t[d] = dy_t[d] * D[d] + d_drive[d] * delta_t[d]
                    ddelta_t[d] = d_drive[d] * u_t[d] + d_log[d] * _LN_2
                    dD[slot, d] += dy_t[d] * u_t[d]


@njit(inline="never", nogil=True, fastmath=_FLAGS)
def _advance(before, after, decay, delta, A2, drive, b):  # type: ignore[no-untyped-def]
    """One step of the recurrence, keeping the decay for the way back."""
    for d in range(before.size):
        decay[d] = _exp2(delta[d] * A2[d])
        after[d] = decay[d] * before[d] + drive[d] * b


@njit(nogil=True, fastmath=_FLAGS)
def _absorb(carry, dy, c):  # type: ignore[no-untyped-def]
    """Add what this step's output says of the state."""
    for d in range(carry.size):
        carry[d] += dy[d] * c


@njit(nogil=True, fastmath=_FLAGS)
def _add_scaled(total, values, scale):  # type: ignore[no-untyped-def]
    for d in range(total.size):
        total[d] += values[d] * scale


@njit(nogil=True, fastmath=_FLAGS)
def _retreat(carry, decay, before, A2, delta, d_log, dA):  # type: ignore[no-untyped-def]
    """Carry the state's gradient one step back; collect the decay's: d(log2 decay) and dA."""
    for d in range(carry.size):
        carried = carry[d] * decay[d]
        of_exponent = carried * before[d]
        d_log[d] += of_exponent * A2[d]
        dA[d] += of_exponent * delta[d]
        carry[d] = carried


@njit(nogil=True, fastmath=True)
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for d in range(a.size):
        total += a[d] * b[d]
    return total


@njit(nogil=True, fastmath=_FLAGS)
def _ungate(h, C, D, u, z, dy, dy_inner, dz, total):  # type: ignore[no-untyped-def]
    """Split the gradient of y·SiLU(z) into that of the ungated output and that of z."""
    for d in range(u.size):
        total[d] = D[d] * u[d]
    for n in range(C.size):
        _add_scaled(total, h[n], C[n])
    for d in range(u.size):
        sigmoid = _ONE / (_ONE + _exp2(-LOG2_E * z[d]))
        dz[d] = dy[d] * total[d] * sigmoid * (_ONE + z[d] * (_ONE - sigmoid))
        dy_inner[d] = dy[d] * z[d] * sigmoid
