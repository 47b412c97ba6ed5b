"""The CPU scan as a torch operator: layouts, threads and autograd around `cpu_kernels`."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from rwsa.scan import cpu_kernels as kernels

# Sums over sequences are taken in this many parts, whatever the number of threads: same bits always.
GRADIENT_SLOTS = 16


def selective_scan_cpu(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None, reverse: bool
) -> Tensor:
    """See `rwsa.scan.selective_scan`. Computes in float32 whatever the dtype; returns u's dtype."""
    sequences = (u, delta, B, C) if z is None else (u, delta, B, C, z)
    across = _lies_across(u)
    laid = [_as_outer_inner(x.float(), across) for x in sequences]
    gate = laid[4] if z is not None else laid[0].new_empty(0)
    inputs = (laid[0], laid[1], A.float().contiguous(), laid[2], laid[3], D.float().contiguous(), gate)
    save = torch.is_grad_enabled() and any(x.requires_grad for x in (*sequences, A, D))
    y, _ = _scan(*inputs, reverse, save)
    if across:
        y = y.view(*u.shape[:-3], u.shape[-2], u.shape[-3], u.shape[-1]).transpose(-3, -2)
    return y.view(u.shape).to(u.dtype) if not across else y.to(u.dtype)


def _lies_across(x: Tensor) -> bool:
    """Whether `[..., inner, length, channel]` is stored as `[..., length, inner, channel]`."""
    return x.dim() > 3 and not x.is_contiguous() and x.transpose(-3, -2).is_contiguous()


def _as_outer_inner(x: Tensor, across: bool) -> Tensor:
    """View as contiguous `[outer, length, inner, channel]`; copies only where the storage differs."""
    if across:
        return x.transpose(-3, -2).contiguous().view(-1, x.shape[-2], x.shape[-3], x.shape[-1])
    return x.contiguous().view(-1, x.shape[-2], 1, x.shape[-1])


@torch.library.custom_op("rwsa::scan_cpu", mutates_args=())
def _scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, reverse: bool, save: bool
) -> tuple[Tensor, Tensor]:
    """y and the saved states (empty unless `save`); shapes as in `cpu_kernels.scan_forward`."""
    outer, length, inner, channels = u.shape
    y = torch.empty_like(u)
    states = u.new_empty(_state_shape(u, A) if save else (0, 0, 0, 0))
    a2 = (A.t() * float(kernels.LOG2_E)).contiguous()
    arrays = [x.detach().numpy() for x in (u, delta, a2, B, C, D, _gate(z, u), y, states)]
    *inputs, y_out, states_out = arrays
    _over_sequences(
        outer * inner,
        lambda slot, first, last: kernels.scan_forward(
            *inputs, z.numel() > 0, reverse, y_out, states_out, save, first, last
        ),
    )
    return y, states


@_scan.register_fake
def _(u, delta, A, B, C, D, z, reverse, save):  # type: ignore[no-untyped-def]
    return torch.empty_like(u), u.new_empty(_state_shape(u, A) if save else (0, 0, 0, 0))


@torch.library.custom_op("rwsa::scan_cpu_backward", mutates_args=())
def _scan_backward(
    dy: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    states: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    outer, _, inner, channels = u.shape
    a2 = (A.t() * float(kernels.LOG2_E)).contiguous()
    du, ddelta, dB, dC, dz = (torch.empty_like(x) for x in (u, delta, B, C, z))
    dA = u.new_zeros(GRADIENT_SLOTS, A.shape[1], channels)
    dD = u.new_zeros(GRADIENT_SLOTS, channels)
    inputs = [x.detach().numpy() for x in (u, delta, a2, B, C, D, _gate(z, u))]
    outputs = [x.numpy() for x in (du, ddelta, dA, dB, dC, dD, _gate(dz, u))]
    saved, dy_in = states.numpy(), dy.detach().contiguous().numpy()
    _over_sequences(
        outer * inner,
        lambda slot, first, last: kernels.scan_backward(
            *inputs, z.numel() > 0, reverse, saved, dy_in, *outputs, slot, first, last
        ),
    )
    return du, ddelta, dA.sum(0).t().contiguous(), dB, dC, dD.sum(0), dz


@_scan_backward.register_fake
def _(dy, u, delta, A, B, C, D, z, states, reverse):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(x) for x in (u, delta, A, B, C, D, z))


def _keep(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, reverse, _ = inputs
    ctx.reverse = reverse
    ctx.save_for_backward(*tensors, output[1])


def _differentiate(ctx, dy, _):  # type: ignore[no-untyped-def]
    gradients = _scan_backward(dy.contiguous(), *ctx.saved_tensors, ctx.reverse)
    return (*gradients, None, None)


_scan.register_autograd(_differentiate, setup_context=_keep)


def _state_shape(u: Tensor, A: Tensor) -> tuple[int, int, int, int]:
    outer, length, inner, channels = u.shape
    return outer * inner, -(-length // kernels.CHECKPOINT_STEPS), A.shape[1], channels


def _gate(z: Tensor, u: Tensor) -> Tensor:
    """z, or where there is none an empty array of the four dimensions that the kernels are typed for."""
    return z if z.numel() else u.new_empty(0, 0, 0, u.shape[-1])


def _over_sequences(sequences: int, work: Callable[[int, int, int], None]) -> None:
    """Run `work(slot, first, last)` over all sequences on torch's number of threads, this one included."""
    slots = min(GRADIENT_SLOTS, sequences)
    bounds = [sequences * i // slots for i in range(slots + 1)]
    threads = min(torch.get_num_threads(), slots)

    def share(thread: int) -> None:
        for slot in range(slots * thread // threads, slots * (thread + 1) // threads):
            work(slot, bounds[slot], bounds[slot + 1])

    pending = [_pool(os.getpid()).submit(share, thread) for thread in range(1, threads)]
    share(0)
    for future in pending:
        future.result()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads that sleep when idle, where OpenMP's would spin against torch's; made anew after a fork."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix=f"rwsa-scan-{process}")
