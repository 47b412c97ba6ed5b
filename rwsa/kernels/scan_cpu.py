"""The CPU scan as a torch operator: layout, threads and autograd around `scan_loops`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from rwsa.kernels import scan_loops as loops
from rwsa.kernels.dispatch import needs_gradients
from rwsa.kernels.layout import flat
from rwsa.kernels.simd import LANES, LOG2_E
from rwsa.kernels.threads import PARTS, run_in_parts


def selective_scan_cpu(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None, reverse: bool
) -> Tensor:
    """See `rwsa.kernels.scan.selective_scan`. Computes in float32 for any dtype; returns u's dtype."""
    channels, spare = u.shape[-1], -u.shape[-1] % LANES
    if spare:
        u, delta, D = (F.pad(x, (0, spare)) for x in (u, delta, D))
        z = None if z is None else F.pad(z, (0, spare))
        A = F.pad(A, (0, 0, 0, spare))
        return selective_scan_cpu(u, delta, A, B, C, D, z, reverse)[..., :channels]
    transposed = _is_transposed(u)
    gate = u.new_empty(0, dtype=torch.float32) if z is None else _as_outer_inner(z, transposed)
    sequences = [_as_outer_inner(x, transposed) for x in (u, delta, B, C)]
    save = needs_gradients(u, delta, A, B, C, D, z)
    y, _ = _scan(*sequences, A.float(), D.float(), gate, reverse, save)
    if transposed:
        y = y.unflatten(0, u.shape[:-3]).transpose(-3, -2)
    return y.view(u.shape).to(u.dtype) if not transposed else y.to(u.dtype)


def _is_transposed(x: Tensor) -> bool:
    """Whether `[..., inner, length, channel]` is stored as `[..., length, inner, channel]`."""
    return x.dim() > 3 and not x.is_contiguous() and x.transpose(-3, -2).is_contiguous()


def _as_outer_inner(x: Tensor, transposed: bool) -> Tensor:
    """View as contiguous float32 `[outer, length, inner, channel]`; copies only other layouts."""
    x = x.float()
    if transposed:
        return x.transpose(-3, -2).contiguous().view(-1, x.shape[-2], x.shape[-3], x.shape[-1])
    return x.contiguous().view(-1, x.shape[-2], 1, x.shape[-1])


@torch.library.custom_op("rwsa::scan_cpu", mutates_args=())
def _scan(
    u: Tensor, delta: Tensor, B: Tensor, C: Tensor, A: Tensor, D: Tensor, z: Tensor, reverse: bool, save: bool
) -> tuple[Tensor, Tensor]:
    """y and the saved states (empty unless `save`), shaped as in `scan_loops.scan_forward`."""
    y, states = torch.empty_like(u), u.new_empty(_state_shape(u, A) if save else (0,))
    inputs = [flat(x) for x in (u, delta, grouped(A), B, C, D, z)]
    shape, y_flat, states_flat = _shape(u, A), flat(y), flat(states)
    forward: Callable[..., None] = loops.scan_forward

    def run(part: int, first: int, last: int) -> None:
        forward(*inputs, reverse, save, shape, y_flat, states_flat, first, last)

    run_in_parts(u.shape[0] * u.shape[2], run)
    return y, states


@_scan.register_fake
def _(u, delta, B, C, A, D, z, reverse, save):  # type: ignore[no-untyped-def]
    return torch.empty_like(u), u.new_empty(_state_shape(u, A) if save else (0,))


@torch.library.custom_op("rwsa::scan_cpu_backward", mutates_args=())
def _scan_backward(
    dy: Tensor,
    u: Tensor,
    delta: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    z: Tensor,
    states: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, B, C, A, D and z, in the order and shape of `_scan`'s arguments."""
    du, ddelta, dB, dC, dz = (torch.empty_like(x) for x in (u, delta, B, C, z))
    A2 = grouped(A)
    dA, dD = u.new_zeros(PARTS, *A2.shape), u.new_zeros(PARTS, *D.shape)
    inputs, saved = [flat(x) for x in (u, delta, A2, B, C, D, z)], flat(states)
    outputs = [flat(x) for x in (dy, du, ddelta, dA, dB, dC, dD, dz)]
    shape = _shape(u, A)
    backward: Callable[..., None] = loops.scan_backward

    def run(part: int, first: int, last: int) -> None:
        backward(*inputs, reverse, shape, saved, *outputs, part, first, last)

    run_in_parts(u.shape[0] * u.shape[2], run)
    return du, ddelta, dB, dC, ungrouped(dA.sum(0)), dD.sum(0), dz


@_scan_backward.register_fake
def _(dy, u, delta, B, C, A, D, z, states, reverse):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(x) for x in (u, delta, B, C, A, D, z))


def _save_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, ctx.reverse, _ = inputs
    ctx.save_for_backward(*tensors, output[1])


def _gradients(ctx, dy, _):  # type: ignore[no-untyped-def]
    return (*_scan_backward(dy.contiguous(), *ctx.saved_tensors, ctx.reverse), None, None)


_scan.register_autograd(_gradients, setup_context=_save_context)


def grouped(A: Tensor) -> Tensor:
    """A times log2 e, from `[channel, state]` to the loops' `[group, state, LANES]`."""
    return (A * float(LOG2_E)).unflatten(0, (-1, LANES)).transpose(1, 2).contiguous()


def ungrouped(dA: Tensor) -> Tensor:
    """A's gradient, from the loops' `[group, state, LANES]` to `[channel, state]`."""
    return dA.transpose(1, 2).flatten(0, 1)


def _shape(u: Tensor, A: Tensor) -> tuple[int, int, int, int]:
    return u.shape[1], u.shape[2], u.shape[3], A.shape[1]


def _state_shape(u: Tensor, A: Tensor) -> tuple[int, ...]:
    outer, length, inner, channels = u.shape
    return outer * inner, channels // LANES, -(-length // loops.CHECKPOINT_STEPS), A.shape[1], LANES
