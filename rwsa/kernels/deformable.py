"""Depthwise deformable 3×3 convolution: by torch's grid_sample, and compiled for the CPU.

Legend: B batch, C channels, T frames, F frequency bins.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rwsa.kernels import deformable_cpu as kernels
from rwsa.kernels import is_compiled_for
from rwsa.kernels.arrays import flat, in_vectors, spread
from rwsa.kernels.simd import LANES
from rwsa.kernels.threads import in_parts


def deform_conv(x_BCTF: Tensor, offset_BKTF: Tensor, weight_C9: Tensor) -> Tensor:
    """Convolve, each tap of each position looking where its offset says.

    Source: Dai et al. 2017, "Deformable Convolutional Networks".

    Args:
        x_BCTF: what is sampled, bilinearly; zeros lie outside.
        offset_BKTF: channels 2k and 2k+1 are dy (along T) and dx (along F) of tap k, taps in row-major order.
        weight_C9: one 3×3 kernel a channel.

    Returns:
        Shaped as x. On a CPU in `torch.channels_last`, and computed in float32 unless in float64.
    """
    if is_compiled_for(x_BCTF):
        x, offsets = (_channels_last(t.float()) for t in (x_BCTF, offset_BKTF))
        return _deform(x, offsets, weight_C9.float()).permute(0, 3, 1, 2).to(x_BCTF.dtype)
    return deform_conv_reference(x_BCTF, offset_BKTF, weight_C9)


def deform_conv_reference(x_BCTF: Tensor, offset_BKTF: Tensor, weight_C9: Tensor) -> Tensor:
    """`deform_conv` on any device and in any dtype, by way of nine times x."""
    batch, channels, frames, bins = x_BCTF.shape
    grid = _sampling_grid(offset_BKTF, frames, bins)
    taps = F.grid_sample(x_BCTF, grid, padding_mode="zeros", align_corners=False)
    return torch.einsum("bctkf,ck->bctf", taps.view(batch, channels, frames, 9, bins), weight_C9)


def _sampling_grid(offset_BKTF: Tensor, frames: int, bins: int) -> Tensor:
    """Where each tap of each position looks, in grid_sample's ±1 coordinates: `[B, T·9, F, 2]`."""
    device, dtype = offset_BKTF.device, offset_BKTF.dtype
    reach = torch.arange(-1, 2, device=device, dtype=dtype)
    t = torch.arange(frames, device=device, dtype=dtype).view(-1, 1, 1)
    f = torch.arange(bins, device=device, dtype=dtype)
    offset = offset_BKTF.unflatten(1, (9, 2)).permute(0, 3, 1, 4, 2)  # B T 9 F (dy, dx)
    t = t + reach.repeat_interleave(3).view(1, 9, 1) + offset[..., 0]
    f = f + reach.repeat(3).view(1, 9, 1) + offset[..., 1]
    # ±1 are the outer edges of the first and last position: so a single frame has an outside too.
    grid = torch.stack(((2 * f + 1) / bins - 1, (2 * t + 1) / frames - 1), dim=-1)
    return grid.flatten(1, 2)


def _channels_last(x_BCTF: Tensor) -> Tensor:
    return x_BCTF.permute(0, 2, 3, 1).contiguous()


@torch.library.custom_op("rwsa::deform_cpu", mutates_args=())
def _deform(x_BTFC: Tensor, offset_BTFK: Tensor, weight_C9: Tensor) -> Tensor:
    batch, *shape = x_BTFC.shape
    out = torch.empty_like(x_BTFC)
    arrays = _roomy(x_BTFC), flat(offset_BTFK), spread(weight_C9.t(), in_vectors(weight_C9.shape[0]))
    forward: Callable[..., None] = kernels.deform_forward
    in_parts(batch * shape[0], lambda _, *span: forward(*arrays, tuple(shape), flat(out), *span))
    return out


@_deform.register_fake
def _(x_BTFC, offset_BTFK, weight_C9):  # type: ignore[no-untyped-def]
    return torch.empty_like(x_BTFC)


@torch.library.custom_op("rwsa::deform_cpu_backward", mutates_args=())
def _deform_backward(
    dout_BTFC: Tensor, x_BTFC: Tensor, offset_BTFK: Tensor, weight_C9: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    batch, *shape = x_BTFC.shape
    weight = spread(weight_C9.t(), in_vectors(weight_C9.shape[0]))
    doffset = torch.empty_like(offset_BTFK)
    dx = np.zeros(x_BTFC.numel() + LANES, np.float32)
    # One part an image: what looks at a position lies in the same image. Each fills its own row.
    dweight = np.zeros((batch, weight.size), np.float32)
    inputs = _roomy(x_BTFC), flat(offset_BTFK), weight, flat(dout_BTFC), tuple(shape)
    backward: Callable[..., None] = kernels.deform_backward

    def work(_: int, first: int, last: int) -> None:
        for image in range(first, last):
            backward(*inputs, dx, flat(doffset), dweight[image], image, image + 1)

    in_parts(batch, work)
    summed = torch.from_numpy(dweight.sum(axis=0)).view(kernels.TAPS, -1)
    dx_BTFC = torch.from_numpy(dx)[: x_BTFC.numel()].view(x_BTFC.shape)
    return dx_BTFC.clone(), doffset, summed[:, : x_BTFC.shape[-1]].t().contiguous()


@_deform_backward.register_fake
def _(dout_BTFC, x_BTFC, offset_BTFK, weight_C9):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(t) for t in (x_BTFC, offset_BTFK, weight_C9))


def _keep(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, dout):  # type: ignore[no-untyped-def]
    return _deform_backward(dout.contiguous(), *ctx.saved_tensors)


_deform.register_autograd(_differentiate, setup_context=_keep)


def _roomy(x: Tensor) -> np.ndarray:
    """Flat, with a spare vector of zeros at its end."""
    return F.pad(x.detach().reshape(-1), (0, LANES)).numpy()
