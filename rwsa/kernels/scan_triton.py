"""The Triton scan as a torch operator: views, scratch memory and autograd around `scan_triton_kernels`.

Legend: D channels, N states.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from triton import next_power_of_2

from rwsa.kernels import scan_triton_kernels as kernels
from rwsa.kernels.dispatch import needs_gradients

# One warp per program: sums over channels and states are shuffles between its threads, without barriers.
# Sizes follow from ptxas's instructions for sm_90: with 512 states per warp and 4 unrolled steps, the
# backward pass spills little and needs two thirds of the instructions of 256 states and 8 steps.
WARPS, TILE_STATES, UNROLLED_STEPS, BLOCKS_PER_SAVED_STATE = 1, 512, 4, 4
# dA and dD are summed over at most this many groups of sequences on any device, so that bits are
# reproducible.
GROUPS = 2048


def selective_scan_triton(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None, reverse: bool
) -> Tensor:
    """See `rwsa.kernels.scan.selective_scan`. States are float32 for any dtype; returns u's dtype.

    Tensors are read through their strides; only batch dimensions that cannot be viewed as two are copied.

    Raises:
        ValueError: a shape does not match; the kernels would read out of bounds.
    """
    _check_shapes(u, delta, A, B, C, D, z)
    save = needs_gradients(u, delta, A, B, C, D, z)
    sequences = [_outer_inner(x) for x in (u, delta, B, C)]
    gate = None if z is None else _outer_inner(z)
    y, _ = _scan(*sequences, A.float(), D.float(), gate, reverse, save)
    return y.reshape(u.shape)


def _check_shapes(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None
) -> None:
    channels, states = A.shape
    of_states = (*u.shape[:-1], states)
    expected = {"u": (u, (*u.shape[:-1], channels)), "delta": (delta, u.shape), "D": (D, (channels,))}
    expected |= {"B": (B, of_states), "C": (C, of_states)} | ({} if z is None else {"z": (z, u.shape)})
    for name, (x, shape) in expected.items():
        if tuple(x.shape) != tuple(shape):
            raise ValueError(f"{name} is {list(x.shape)}, not {list(shape)} as u and A require")


def _outer_inner(x: Tensor) -> Tensor:
    """View as `[outer, inner, length, last]`."""
    if x.dim() > 4:
        return x.flatten(0, -4)
    return x[(None,) * (4 - x.dim())]


@torch.library.custom_op("rwsa::scan_triton", mutates_args=())
def _scan(
    u: Tensor,
    delta: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    z: Tensor | None,
    reverse: bool,
    save: bool,
) -> tuple[Tensor, Tensor]:
    """y in u's memory order, and the states saved at regular steps (empty unless `save`)."""
    y, states = torch.empty_like(u), A.new_empty(_state_shape(u, A) if save else (0,))
    outer, inner, length, channels = u.shape
    sequences = [_strided(x) for x in (u, delta, u if z is None else z, B, C, y)]
    with torch.cuda.device_of(u):
        kernels.scan_forward[(outer * inner * _channel_blocks(A),)](
            *sequences,
            *(_log2_scaled(A), D.contiguous(), states, inner, length, channels, A.shape[1]),
            **_tile(A),
            REVERSE=reverse,
            GATE=z is not None,
            SAVE=save,
        )
    return y, states


@_scan.register_fake
def _(u, delta, B, C, A, D, z, reverse, save):  # type: ignore[no-untyped-def]
    return torch.empty_like(u), A.new_empty(_state_shape(u, A) if save else (0,))


@torch.library.custom_op("rwsa::scan_triton_backward", mutates_args=())
def _scan_backward(
    dy: Tensor,
    u: Tensor,
    delta: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    z: Tensor | None,
    states: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, B, C, A, D and z (empty without a gate).

    Blocks of channels and groups of sequences write their partial sums of dB, dC, dA and dD separately; torch
    adds them in a fixed order.
    """
    outer, inner, length, channels = u.shape
    groups = min(GROUPS, outer * inner)
    du, ddelta, dz = torch.empty_like(u), torch.empty_like(delta), _gradient_of_gate(z, u)
    dB, dC = (_partial_sums(x, _channel_blocks(A)) for x in (B, C))
    dA, dD = A.new_empty(groups, *A.shape), D.new_empty(groups, channels)
    inputs = [_strided(x) for x in (u, delta, u if z is None else z, B, C, dy)]
    outputs = [_strided(x) for x in (du, ddelta, du if z is None else dz)]
    outputs += [(*_strided(part[0]), part.stride(0)) for part in (dB, dC)]
    with torch.cuda.device_of(u):
        kernels.scan_backward[(groups * _channel_blocks(A),)](
            *inputs,
            *(_log2_scaled(A), D.contiguous(), states),
            *outputs,
            *(dA, dD, outer * inner, groups, inner, length, channels, A.shape[1]),
            **_tile(A),
            REVERSE=reverse,
            GATE=z is not None,
        )
    return du, ddelta, _summed(dB, B), _summed(dC, C), dA.sum(0), dD.sum(0), dz


@_scan_backward.register_fake
def _(dy, u, delta, B, C, A, D, z, states, reverse):  # type: ignore[no-untyped-def]
    sequences = tuple(torch.empty_like(x) for x in (u, delta, B, C))
    return *sequences, A.new_empty(A.shape), D.new_empty(D.shape), _gradient_of_gate(z, u)


def _save_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, ctx.reverse, _ = inputs
    ctx.save_for_backward(*tensors, output[1])


def _gradients(ctx, dy, _):  # type: ignore[no-untyped-def]
    *gradients, dz = _scan_backward(dy, *ctx.saved_tensors, ctx.reverse)
    gate = ctx.saved_tensors[6]
    return (*gradients, None if gate is None else dz, None, None)


_scan.register_autograd(_gradients, setup_context=_save_context)


def _strided(x: Tensor) -> tuple[Tensor | int, ...]:
    """A sequence as the kernels accept it: the tensor and its strides."""
    return x, *x.stride()


def _log2_scaled(A: Tensor) -> Tensor:
    return (A * math.log2(math.e)).contiguous()


def _block_channels(A: Tensor) -> int:
    channels, states = A.shape
    return min(next_power_of_2(channels), max(1, TILE_STATES // next_power_of_2(states)))


def _channel_blocks(A: Tensor) -> int:
    return -(-A.shape[0] // _block_channels(A))


def _tile(A: Tensor) -> dict[str, int | bool]:
    """Compile-time constants and options of the kernels."""
    return {
        "BLOCK_D": _block_channels(A),
        "N": next_power_of_2(A.shape[1]),
        "K": UNROLLED_STEPS,
        "J": BLOCKS_PER_SAVED_STATE,
        "num_warps": WARPS,
        "enable_fp_fusion": True,
    }


def _state_shape(u: Tensor, A: Tensor) -> tuple[int, ...]:
    outer, inner, length, _ = u.shape
    return outer * inner, -(-length // (UNROLLED_STEPS * BLOCKS_PER_SAVED_STATE)), *A.shape


def _gradient_of_gate(z: Tensor | None, u: Tensor) -> Tensor:
    return u.new_empty(0) if z is None else torch.empty_like(z)


def _partial_sums(x: Tensor, count: int) -> Tensor:
    """`count` consecutive tensors laid out as x; float32 if there are several to sum."""
    strides = torch.empty_like(x, device="meta").stride()
    dtype = x.dtype if count == 1 else torch.float32
    return torch.empty_strided((count, *x.shape), (x.numel(), *strides), dtype=dtype, device=x.device)


def _summed(parts: Tensor, x: Tensor) -> Tensor:
    """The sum of `_partial_sums`, laid out and typed as x."""
    return parts[0] if len(parts) == 1 else torch.empty_like(x).copy_(parts.sum(0))
