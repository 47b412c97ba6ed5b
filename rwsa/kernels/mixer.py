"""x + Mamba(RMSNorm(x)) along one axis of `[B, T, F, C]`: in torch, and compiled whole for the CPU.

Legend: B batch, T frames, F frequency bins, C channels, D inner channels, R rank of the step, N states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rwsa.kernels import is_compiled_for, needs_gradients
from rwsa.kernels import mixer_cpu as kernels
from rwsa.kernels.arrays import flat, in_vectors, spread
from rwsa.kernels.axes import Axis, lines
from rwsa.kernels.scan import resolve, selective_scan
from rwsa.kernels.scan_cpu import grouped, ungrouped
from rwsa.kernels.scan_cpu_loops import CHECKPOINT_STEPS
from rwsa.kernels.simd import LANES
from rwsa.kernels.threads import PARTS, in_parts

NORM_EPSILON = 1e-5


class MixerWeights(NamedTuple):
    """What a Mamba-1 mixer learns, under mamba-ssm's names, and its norm."""

    norm: Tensor  # C
    in_proj: Tensor  # 2 D, C: x, then the gate
    conv: Tensor  # D, 1, taps
    conv_bias: Tensor  # D
    x_proj: Tensor  # R + 2 N, D: the step, B, C
    dt_proj: Tensor  # D, R
    dt_bias: Tensor  # D
    A: Tensor  # D, N; negative
    D: Tensor  # D
    out_proj: Tensor  # C, D


def mix(x_BTFC: Tensor, weights: MixerWeights, axis: Axis, *, reverse: bool) -> Tensor:
    """x + Mamba(RMSNorm(x)) along `axis`; `reverse` is flip, mix, flip.

    Source: Gu & Dao 2023, "Mamba", section 3.4. Where the scan's backend is `cpu`, the whole mixer is one
    compiled operator in float32 (float64 aside), which keeps nothing for gradients but its input and some
    states; elsewhere it is `mix_reference`.
    """
    if resolve(x_BTFC.device) == "cpu" and is_compiled_for(x_BTFC):
        save = needs_gradients(x_BTFC, *weights)
        tensors = [w.float() for w in weights]
        out, _ = _mixer(x_BTFC.float().contiguous(), tensors, axis is Axis.TIME, reverse, save)
        return out.to(x_BTFC.dtype)
    return mix_reference(x_BTFC, weights, axis, reverse=reverse)


def mix_reference(x_BTFC: Tensor, weights: MixerWeights, axis: Axis, *, reverse: bool) -> Tensor:
    """`mix` step by step, on any device and in any dtype.

    The reverse direction flips nothing: its convolution looks ahead and its scan runs in reverse.
    """
    normed = F.rms_norm(x_BTFC, weights.norm.shape, weights.norm, NORM_EPSILON)
    # Slices of the weight give x and z, and step, B and C, as tensors of their own: no copies.
    inner, z = (F.linear(normed, w) for w in weights.in_proj.chunk(2))
    u = F.silu(_causal_conv(inner, weights.conv, weights.conv_bias, axis, reverse=reverse))
    rank, states = weights.dt_proj.shape[1], weights.A.shape[1]
    step, B, C = (F.linear(u, w) for w in weights.x_proj.split([rank, states, states]))
    delta = F.softplus(F.linear(step, weights.dt_proj, weights.dt_bias))
    if axis is Axis.TIME:
        u, delta, B, C, z = (s.transpose(1, 2) for s in (u, delta, B, C, z))
    y = selective_scan(u, delta, weights.A, B, C, weights.D, z, reverse=reverse)
    return x_BTFC + F.linear(y.transpose(1, 2) if axis is Axis.TIME else y, weights.out_proj)


def _causal_conv(x_BTFD: Tensor, weight: Tensor, bias: Tensor, axis: Axis, *, reverse: bool) -> Tensor:
    """The depthwise convolution along `axis`: over the past, or over the future in reverse."""
    channels, _, taps = weight.shape
    kernel = weight.flip(-1) if reverse else weight
    along = (taps, 1) if axis is Axis.TIME else (1, taps)
    padding = (taps - 1, 0) if axis is Axis.TIME else (0, taps - 1)
    x_BDTF = x_BTFD.permute(0, 3, 1, 2)
    y_BDTF = F.conv2d(x_BDTF, kernel.unflatten(-1, along), bias, padding=padding, groups=channels)
    dim = axis.value  # torch.compile cannot index a shape by an enum
    return y_BDTF.permute(0, 2, 3, 1).narrow(dim, taps - 1 if reverse else 0, x_BTFD.shape[dim])


@torch.library.custom_op("rwsa::mixer_cpu", mutates_args=())
def _mixer(
    x: Tensor, tensors: list[Tensor], along_time: bool, reverse: bool, save: bool
) -> tuple[Tensor, Tensor]:
    """out, and the scan's saved states (empty unless `save`); tensors: `MixerWeights`."""
    weights = MixerWeights(*tensors)
    sizes = _sizes(x, weights, along_time)
    out, states = torch.empty_like(x), x.new_empty(_state_shape(x, sizes) if save else (0,))
    packed, (x_flat, *flats) = _packed(weights, sizes), [flat(t) for t in (x, out, states)]
    forward: Callable[..., None] = kernels.mixer_forward

    def work(part: int, first: int, last: int) -> None:
        forward(x_flat, sizes, NORM_EPSILON, reverse, save, packed, *flats, first, last)

    in_parts(_line_count(x, sizes), work)
    return out, states


@_mixer.register_fake
def _(x, tensors, along_time, reverse, save):  # type: ignore[no-untyped-def]
    sizes = _sizes(x, MixerWeights(*tensors), along_time)
    return torch.empty_like(x), x.new_empty(_state_shape(x, sizes) if save else (0,))


@torch.library.custom_op("rwsa::mixer_cpu_backward", mutates_args=())
def _mixer_backward(
    dout: Tensor, x: Tensor, tensors: list[Tensor], states: Tensor, along_time: bool, reverse: bool
) -> list[Tensor]:
    """Gradients of x and of the weights, in their order."""
    weights = MixerWeights(*tensors)
    sizes = _sizes(x, weights, along_time)
    dx, packed = torch.empty_like(x), _packed(weights, sizes)
    transposed = _transposed(weights, sizes)
    ends = np.cumsum([array.size for array in packed])
    sums = np.zeros((PARTS, ends[-1]), np.float32)
    read, kept = [flat(t) for t in (x, dout)], [flat(t) for t in (states, dx)]
    backward: Callable[..., None] = kernels.mixer_backward

    def work(part: int, first: int, last: int) -> None:
        mine = kernels.Weights(*np.split(sums[part], ends[:-1]))
        backward(
            *read, sizes, NORM_EPSILON, reverse, packed, transposed, *kept, mine, first, last
        )  # fmt: skip

    in_parts(_line_count(x, sizes), work)
    summed = kernels.Weights(*np.split(sums.sum(axis=0), ends[:-1]))
    return [dx, *_unpacked(summed, weights, sizes)]


@_mixer_backward.register_fake
def _(dout, x, tensors, states, along_time, reverse):  # type: ignore[no-untyped-def]
    return [torch.empty_like(t) for t in (x, *tensors)]


def _keep(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, tensors, ctx.along_time, ctx.reverse, _ = inputs
    ctx.save_for_backward(x, *tensors, output[1])


def _differentiate(ctx, dout, _):  # type: ignore[no-untyped-def]
    x, *tensors, states = ctx.saved_tensors
    dx, *dtensors = _mixer_backward(dout.contiguous(), x, tensors, states, ctx.along_time, ctx.reverse)
    return dx, dtensors, None, None, None


_mixer.register_autograd(_differentiate, setup_context=_keep)


def _sizes(x_BTFC: Tensor, weights: MixerWeights, along_time: bool) -> kernels.Sizes:
    _, length, inner, channels = lines(x_BTFC, Axis.TIME if along_time else Axis.FREQUENCY).shape
    return kernels.Sizes(
        length=length,
        inner=inner,
        channels=channels,
        width=in_vectors(channels),
        wide=in_vectors(weights.D.shape[0]),
        rank=weights.dt_proj.shape[1],
        states=weights.A.shape[1],
        states_wide=in_vectors(weights.A.shape[1]),
        taps=weights.conv.shape[-1],
    )


def _line_count(x: Tensor, sizes: kernels.Sizes) -> int:
    return x.numel() // (sizes.channels * sizes.length)


def _state_shape(x: Tensor, sizes: kernels.Sizes) -> tuple[int, ...]:
    blocks = -(-sizes.length // CHECKPOINT_STEPS)
    return _line_count(x, sizes), sizes.wide // LANES, blocks, sizes.states, LANES


def _packed(weights: MixerWeights, sizes: kernels.Sizes) -> kernels.Weights:
    """The weights as the kernels read them: products `[from, to]`, the last axis in whole vectors."""
    wide, narrow, states = sizes.wide, sizes.width, sizes.states_wide
    to_x, to_z = weights.in_proj.chunk(2)
    to_step, to_B, to_C = weights.x_proj.split([sizes.rank, sizes.states, sizes.states])
    A = F.pad(weights.A.detach(), (0, 0, 0, wide - weights.A.shape[0]))
    return kernels.Weights(
        norm=spread(weights.norm, narrow),
        to_x=spread(to_x.t(), wide),
        to_z=spread(to_z.t(), wide),
        conv=spread(weights.conv.squeeze(1).t(), wide),
        conv_bias=spread(weights.conv_bias, wide),
        to_step=spread(to_step, wide),
        to_B=spread(to_B.t(), states, wide),
        to_C=spread(to_C.t(), states, wide),
        from_step=spread(weights.dt_proj.t(), wide),
        step_bias=spread(weights.dt_bias, wide),
        A2=flat(grouped(A)),
        D=spread(weights.D, wide),
        out=spread(weights.out_proj.t(), narrow, wide),
    )


def _transposed(weights: MixerWeights, sizes: kernels.Sizes) -> kernels.Transposed:
    wide, narrow = sizes.wide, sizes.width
    to_x, to_z = weights.in_proj.chunk(2)
    _, to_B, to_C = weights.x_proj.split([sizes.rank, sizes.states, sizes.states])
    return kernels.Transposed(
        to_x=spread(to_x, narrow, wide),
        to_z=spread(to_z, narrow, wide),
        to_B=spread(to_B, wide),
        to_C=spread(to_C, wide),
        out=spread(weights.out_proj, wide),
    )


def _unpacked(gradients: kernels.Weights, weights: MixerWeights, sizes: kernels.Sizes) -> MixerWeights:
    """Gradients in the shapes of `weights`."""
    channels, inner = weights.out_proj.shape

    def of(array: np.ndarray, width: int, rows: int, columns: int) -> Tensor:
        return torch.from_numpy(array).view(-1, width)[:rows, :columns]

    A = ungrouped(torch.from_numpy(gradients.A2).view(-1, sizes.states, LANES))
    x_proj = (
        of(gradients.to_step, sizes.wide, sizes.rank, inner),
        of(gradients.to_B, sizes.states_wide, inner, sizes.states).t(),
        of(gradients.to_C, sizes.states_wide, inner, sizes.states).t(),
    )
    shaped = MixerWeights(
        norm=torch.from_numpy(gradients.norm)[:channels],
        in_proj=torch.cat([of(g, sizes.wide, channels, inner).t() for g in (gradients.to_x, gradients.to_z)]),
        conv=of(gradients.conv, sizes.wide, sizes.taps, inner).t().unsqueeze(1),
        conv_bias=torch.from_numpy(gradients.conv_bias)[:inner],
        x_proj=torch.cat(x_proj),
        dt_proj=of(gradients.from_step, sizes.wide, sizes.rank, inner).t(),
        dt_bias=torch.from_numpy(gradients.step_bias)[:inner],
        A=A[:inner],
        D=torch.from_numpy(gradients.D)[:inner],
        out_proj=of(gradients.out, sizes.width, inner, channels).t(),
    )
    # Not .contiguous(), which leaves the strides of one column as they are; DDP wants a parameter's own.
    return MixerWeights(*(g.clone(memory_format=torch.contiguous_format) for g in shaped))
