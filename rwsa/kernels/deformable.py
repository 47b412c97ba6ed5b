"""Depthwise deformable 3×3 convolution, by torch's grid_sample or compiled for the CPU.

Legend: B batch, C channels, T frames, F frequency bins.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rwsa.kernels import deformable_loops as loops
from rwsa.kernels.dispatch import has_cpu_kernel, runs_directly, without_autocast
from rwsa.kernels.layout import flat
from rwsa.kernels.planes import from_planes, new_planes, plane_shape, to_planes
from rwsa.kernels.threads import run_in_parts


def deform_conv(x_BCTF: Tensor, offset_BKTF: Tensor, weight_C9: Tensor) -> Tensor:
    """Depthwise 3×3 convolution whose taps are displaced by an offset at every position.

    Source: Dai et al. 2017, "Deformable Convolutional Networks".

    Args:
        x_BCTF: input, sampled bilinearly and zero outside.
        offset_BKTF: channels 2k and 2k+1 are dy (along T) and dx (along F) of tap k, taps in row-major order,
            within ±1.
        weight_C9: one 3×3 kernel per channel.

    Returns:
        `[B, C, T, F]`; on a CPU in `torch.channels_last`, and computed in float32 unless the input is
        float64.
    """
    if has_cpu_kernel(x_BCTF):
        x, offsets = (_channels_last(t.float()) for t in (x_BCTF, offset_BKTF))
        weight = weight_C9.float()
        deform = _convolve if runs_directly(x, offsets, weight) else _deform
        return deform(x, offsets, weight).permute(0, 3, 1, 2).to(x_BCTF.dtype)
    return deform_conv_reference(x_BCTF, offset_BKTF, weight_C9)


def deform_conv_reference(x_BCTF: Tensor, offset_BKTF: Tensor, weight_C9: Tensor) -> Tensor:
    """`deform_conv` on any device and in any dtype; materializes nine copies of x.

    Positions and interpolation are at least float32, also under autocast: bfloat16 resolves position 255
    only to 1. The sum over taps is in x's dtype, as a convolution's.
    """
    batch, channels, frames, bins = x_BCTF.shape
    precise = torch.promote_types(x_BCTF.dtype, torch.float32)
    with without_autocast(x_BCTF.device):
        grid = _sampling_grid(offset_BKTF.to(precise), frames, bins)
        taps = F.grid_sample(x_BCTF.to(precise), grid, padding_mode="zeros", align_corners=False)
        taps = taps.to(x_BCTF.dtype).view(batch, channels, frames, 9, bins)
        return torch.einsum("bctkf,ck->bctf", taps, weight_C9.to(x_BCTF.dtype))


def _sampling_grid(offset_BKTF: Tensor, frames: int, bins: int) -> Tensor:
    """Sampling positions of all taps in grid_sample's ±1 coordinates: `[B, T·9, F, 2]`."""
    device, dtype = offset_BKTF.device, offset_BKTF.dtype
    reach = torch.arange(-1, 2, device=device, dtype=dtype)
    t = torch.arange(frames, device=device, dtype=dtype).view(-1, 1, 1)
    f = torch.arange(bins, device=device, dtype=dtype)
    offset = offset_BKTF.unflatten(1, (9, 2)).permute(0, 3, 1, 4, 2)  # B T 9 F (dy, dx)
    t = t + reach.repeat_interleave(3).view(1, 9, 1) + offset[..., 0]
    f = f + reach.repeat(3).view(1, 9, 1) + offset[..., 1]
    # ±1 are the outer edges of the first and last position, so that a single frame works too.
    grid = torch.stack(((2 * f + 1) / bins - 1, (2 * t + 1) / frames - 1), dim=-1)
    return grid.flatten(1, 2)


def _channels_last(x_BCTF: Tensor) -> Tensor:
    return x_BCTF.permute(0, 2, 3, 1).contiguous()


def _planes_of(x_BTFC: Tensor) -> tuple[np.ndarray, int]:
    """The tensor in channel planes, and where they begin."""
    planes, starts = new_planes(1, _rows(x_BTFC), plane_shape(x_BTFC))
    to_planes(x_BTFC, planes, starts[0])
    return planes, starts[0]


def _rows(x_BTFC: Tensor) -> int:
    return x_BTFC.shape[0] * x_BTFC.shape[1]


def _convolve(x_BTFC: Tensor, offset_BTFK: Tensor, weight_C9: Tensor) -> Tensor:
    shape, rows, out = plane_shape(x_BTFC), _rows(x_BTFC), torch.empty_like(x_BTFC)
    planes, starts = new_planes(1, rows, shape)
    arrays = *_planes_of(x_BTFC), *_planes_of(offset_BTFK), flat(weight_C9)
    forward: Callable[..., None] = loops.deform_forward
    run_in_parts(rows, lambda _, *span: forward(*arrays, shape, planes, starts[0], *span))
    from_planes(planes, starts[0], out)
    return out


_deform = torch.library.custom_op("rwsa::deform_cpu", _convolve, mutates_args=())


@_deform.register_fake
def _(x_BTFC, offset_BTFK, weight_C9):  # type: ignore[no-untyped-def]
    return torch.empty_like(x_BTFC)


@torch.library.custom_op("rwsa::deform_cpu_backward", mutates_args=())
def _deform_backward(
    dout_BTFC: Tensor, x_BTFC: Tensor, offset_BTFK: Tensor, weight_C9: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    batch, shape, rows = x_BTFC.shape[0], plane_shape(x_BTFC), _rows(x_BTFC)
    dx, starts = new_planes(1, rows, shape)
    dx[:] = 0
    doffset, _ = new_planes(1, rows, plane_shape(offset_BTFK))
    # Parallel over images, since taps stay within one; each image has its own row of dweight.
    dweight = np.zeros((batch, weight_C9.numel()), np.float32)
    inputs = *_planes_of(x_BTFC), *_planes_of(offset_BTFK), flat(weight_C9), *_planes_of(dout_BTFC), shape
    backward: Callable[..., None] = loops.deform_backward

    def run(_: int, first: int, last: int) -> None:
        for image in range(first, last):
            backward(*inputs, dx, doffset, dweight[image], image, image + 1)

    run_in_parts(batch, run)
    dx_BTFC, doffset_BTFK = torch.empty_like(x_BTFC), torch.empty_like(offset_BTFK)
    from_planes(dx, starts[0], dx_BTFC)
    from_planes(doffset, starts[0], doffset_BTFK)
    return dx_BTFC, doffset_BTFK, torch.from_numpy(dweight.sum(axis=0)).view_as(weight_C9)


@_deform_backward.register_fake
def _(dout_BTFC, x_BTFC, offset_BTFK, weight_C9):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(t) for t in (x_BTFC, offset_BTFK, weight_C9))


def _save_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _gradients(ctx, dout):  # type: ignore[no-untyped-def]
    return _deform_backward(dout.contiguous(), *ctx.saved_tensors)


_deform.register_autograd(_gradients, setup_context=_save_context)
