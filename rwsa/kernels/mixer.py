"""x + Mamba(RMSNorm(x)) along one axis of `[B, T, F, C]`, by torch or fused for the CPU.

Legend: B batch, T frames, F frequency bins, C channels, D inner channels, R rank of the step, N states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rwsa.kernels import mixer_loops as loops
from rwsa.kernels.dispatch import has_cpu_kernel, needs_gradients
from rwsa.kernels.layout import SequenceAxis, as_sequences, flat, padded_size, zero_padded
from rwsa.kernels.mixer_loops_backward import TransposedWeights, mixer_backward
from rwsa.kernels.scan import resolve_backend, selective_scan
from rwsa.kernels.scan_cpu import grouped, ungrouped
from rwsa.kernels.scan_loops import CHECKPOINT_STEPS
from rwsa.kernels.simd import LANES
from rwsa.kernels.threads import PARTS, run_in_parts

NORM_EPSILON = 1e-5


class MixerWeights(NamedTuple):
    """Parameters of a Mamba-1 mixer, named as in mamba-ssm, and of its norm."""

    norm: Tensor  # C
    in_proj: Tensor  # 2 D, C: x, then the gate z
    conv: Tensor  # D, 1, taps
    conv_bias: Tensor  # D
    x_proj: Tensor  # R + 2 N, D: step, B, C
    dt_proj: Tensor  # D, R
    dt_bias: Tensor  # D
    A: Tensor  # D, N; negative
    D: Tensor  # D
    out_proj: Tensor  # C, D


def mix(x_BTFC: Tensor, weights: MixerWeights, axis: SequenceAxis, *, reverse: bool) -> Tensor:
    """x + Mamba(RMSNorm(x)) along `axis`; `reverse` is flip, mix, flip.

    Where the scan's backend is `cpu`, the mixer is one fused operator in float32 (except for float64 inputs),
    which saves only its input and some states for gradients; elsewhere it is `mix_reference`.

    Source: Gu & Dao 2023, "Mamba", section 3.4.
    """
    if resolve_backend(x_BTFC.device) == "cpu" and has_cpu_kernel(x_BTFC):
        save = needs_gradients(x_BTFC, *weights)
        tensors = [w.float() for w in weights]
        out, _ = _mixer(x_BTFC.float().contiguous(), tensors, axis is SequenceAxis.TIME, reverse, save)
        return out.to(x_BTFC.dtype)
    return mix_reference(x_BTFC, weights, axis, reverse=reverse)


def mix_reference(x_BTFC: Tensor, weights: MixerWeights, axis: SequenceAxis, *, reverse: bool) -> Tensor:
    """`mix` as separate torch operations, on any device and in any dtype.

    The reverse direction flips no tensor: its convolution is anti-causal and its scan runs in reverse.
    """
    normed = F.rms_norm(x_BTFC, weights.norm.shape, weights.norm, NORM_EPSILON)
    # Splitting the weights rather than the results avoids copies.
    inner, z = (F.linear(normed, w) for w in weights.in_proj.chunk(2))
    u = F.silu(_causal_conv(inner, weights.conv, weights.conv_bias, axis, reverse=reverse))
    rank, states = weights.dt_proj.shape[1], weights.A.shape[1]
    step, B, C = (F.linear(u, w) for w in weights.x_proj.split([rank, states, states]))
    delta = F.softplus(F.linear(step, weights.dt_proj, weights.dt_bias))
    if axis is SequenceAxis.TIME:
        u, delta, B, C, z = (s.transpose(1, 2) for s in (u, delta, B, C, z))
    y = selective_scan(u, delta, weights.A, B, C, weights.D, z, reverse=reverse)
    return x_BTFC + F.linear(y.transpose(1, 2) if axis is SequenceAxis.TIME else y, weights.out_proj)


def _causal_conv(
    x_BTFD: Tensor, weight: Tensor, bias: Tensor, axis: SequenceAxis, *, reverse: bool
) -> Tensor:
    """Depthwise convolution along `axis`, causal, or anti-causal in reverse."""
    channels, _, taps = weight.shape
    kernel = weight.flip(-1) if reverse else weight
    along = (taps, 1) if axis is SequenceAxis.TIME else (1, taps)
    padding = (taps - 1, 0) if axis is SequenceAxis.TIME else (0, taps - 1)
    x_BDTF = x_BTFD.permute(0, 3, 1, 2)
    y_BDTF = F.conv2d(x_BDTF, kernel.unflatten(-1, along), bias, padding=padding, groups=channels)
    dim = axis.value  # torch.compile cannot index a shape by an enum
    return y_BDTF.permute(0, 2, 3, 1).narrow(dim, taps - 1 if reverse else 0, x_BTFD.shape[dim])


@torch.library.custom_op("rwsa::mixer_cpu", mutates_args=())
def _mixer(
    x: Tensor, tensors: list[Tensor], along_time: bool, reverse: bool, save: bool
) -> tuple[Tensor, Tensor]:
    """Output and the scan's saved states (empty unless `save`); tensors: `MixerWeights`."""
    weights = MixerWeights(*tensors)
    sizes = _sizes(x, weights, along_time)
    out, states = torch.empty_like(x), x.new_empty(_state_shape(x, sizes) if save else (0,))
    packed, (x_flat, *flats) = _packed(weights, sizes), [flat(t) for t in (x, out, states)]
    forward: Callable[..., None] = loops.mixer_forward

    def run(part: int, first: int, last: int) -> None:
        forward(x_flat, sizes, NORM_EPSILON, reverse, save, packed, *flats, first, last)

    run_in_parts(_sequence_count(x, sizes), run)
    return out, states


@_mixer.register_fake
def _(x, tensors, along_time, reverse, save):  # type: ignore[no-untyped-def]
    sizes = _sizes(x, MixerWeights(*tensors), along_time)
    return torch.empty_like(x), x.new_empty(_state_shape(x, sizes) if save else (0,))


@torch.library.custom_op("rwsa::mixer_cpu_backward", mutates_args=())
def _mixer_backward(
    dout: Tensor, x: Tensor, tensors: list[Tensor], states: Tensor, along_time: bool, reverse: bool
) -> list[Tensor]:
    """Gradients of x and of the weights, in the order of `MixerWeights`."""
    weights = MixerWeights(*tensors)
    sizes = _sizes(x, weights, along_time)
    dx, packed = torch.empty_like(x), _packed(weights, sizes)
    transposed = _transposed(weights, sizes)
    ends = np.cumsum([array.size for array in packed])
    sums = np.zeros((PARTS, ends[-1]), np.float32)
    inputs, written = [flat(t) for t in (x, dout)], [flat(t) for t in (states, dx)]
    backward: Callable[..., None] = mixer_backward

    def run(part: int, first: int, last: int) -> None:
        gradients = loops.Weights(*np.split(sums[part], ends[:-1]))
        backward(
            *inputs, sizes, NORM_EPSILON, reverse, packed, transposed, *written, gradients, first, last
        )  # fmt: skip

    run_in_parts(_sequence_count(x, sizes), run)
    summed = loops.Weights(*np.split(sums.sum(axis=0), ends[:-1]))
    return [dx, *_unpacked(summed, weights, sizes)]


@_mixer_backward.register_fake
def _(dout, x, tensors, states, along_time, reverse):  # type: ignore[no-untyped-def]
    return [torch.empty_like(t) for t in (x, *tensors)]


def _save_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, tensors, ctx.along_time, ctx.reverse, _ = inputs
    ctx.save_for_backward(x, *tensors, output[1])


def _gradients(ctx, dout, _):  # type: ignore[no-untyped-def]
    x, *tensors, states = ctx.saved_tensors
    dx, *dtensors = _mixer_backward(dout.contiguous(), x, tensors, states, ctx.along_time, ctx.reverse)
    return dx, dtensors, None, None, None


_mixer.register_autograd(_gradients, setup_context=_save_context)


def _sizes(x_BTFC: Tensor, weights: MixerWeights, along_time: bool) -> loops.Sizes:
    _, length, inner, channels = as_sequences(
        x_BTFC, SequenceAxis.TIME if along_time else SequenceAxis.FREQUENCY
    ).shape
    return loops.Sizes(
        length=length,
        inner=inner,
        channels=channels,
        width=padded_size(channels),
        wide=padded_size(weights.D.shape[0]),
        rank=weights.dt_proj.shape[1],
        states=weights.A.shape[1],
        states_wide=padded_size(weights.A.shape[1]),
        taps=weights.conv.shape[-1],
    )


def _sequence_count(x: Tensor, sizes: loops.Sizes) -> int:
    return x.numel() // (sizes.channels * sizes.length)


def _state_shape(x: Tensor, sizes: loops.Sizes) -> tuple[int, ...]:
    blocks = -(-sizes.length // CHECKPOINT_STEPS)
    return _sequence_count(x, sizes), sizes.wide // LANES, blocks, sizes.states, LANES


def _packed(weights: MixerWeights, sizes: loops.Sizes) -> loops.Weights:
    """The weights as the loops read them: matrices `[from, to]`, the last axis padded to whole vectors."""
    wide, narrow, states = sizes.wide, sizes.width, sizes.states_wide
    to_x, to_z = weights.in_proj.chunk(2)
    to_step, to_B, to_C = weights.x_proj.split([sizes.rank, sizes.states, sizes.states])
    A = F.pad(weights.A.detach(), (0, 0, 0, wide - weights.A.shape[0]))
    return loops.Weights(
        norm=zero_padded(weights.norm, narrow),
        to_x=zero_padded(to_x.t(), wide),
        to_z=zero_padded(to_z.t(), wide),
        conv=zero_padded(weights.conv.squeeze(1).t(), wide),
        conv_bias=zero_padded(weights.conv_bias, wide),
        to_step=zero_padded(to_step, wide),
        to_B=zero_padded(to_B.t(), states, wide),
        to_C=zero_padded(to_C.t(), states, wide),
        from_step=zero_padded(weights.dt_proj.t(), wide),
        step_bias=zero_padded(weights.dt_bias, wide),
        A2=flat(grouped(A)),
        D=zero_padded(weights.D, wide),
        out=zero_padded(weights.out_proj.t(), narrow, wide),
    )


def _transposed(weights: MixerWeights, sizes: loops.Sizes) -> TransposedWeights:
    wide, narrow = sizes.wide, sizes.width
    to_x, to_z = weights.in_proj.chunk(2)
    _, to_B, to_C = weights.x_proj.split([sizes.rank, sizes.states, sizes.states])
    return TransposedWeights(
        to_x=zero_padded(to_x, narrow, wide),
        to_z=zero_padded(to_z, narrow, wide),
        to_B=zero_padded(to_B, wide),
        to_C=zero_padded(to_C, wide),
        out=zero_padded(weights.out_proj, wide),
    )


def _unpacked(gradients: loops.Weights, weights: MixerWeights, sizes: loops.Sizes) -> MixerWeights:
    """Gradients, reshaped to the shapes of `weights`."""
    channels, inner = weights.out_proj.shape

    def matrix(array: np.ndarray, width: int, rows: int, columns: int) -> Tensor:
        return torch.from_numpy(array).view(-1, width)[:rows, :columns]

    A = ungrouped(torch.from_numpy(gradients.A2).view(-1, sizes.states, LANES))
    x_proj = (
        matrix(gradients.to_step, sizes.wide, sizes.rank, inner),
        matrix(gradients.to_B, sizes.states_wide, inner, sizes.states).t(),
        matrix(gradients.to_C, sizes.states_wide, inner, sizes.states).t(),
    )
    shaped = MixerWeights(
        norm=torch.from_numpy(gradients.norm)[:channels],
        in_proj=torch.cat(
            [matrix(g, sizes.wide, channels, inner).t() for g in (gradients.to_x, gradients.to_z)]
        ),
        conv=matrix(gradients.conv, sizes.wide, sizes.taps, inner).t().unsqueeze(1),
        conv_bias=torch.from_numpy(gradients.conv_bias)[:inner],
        x_proj=torch.cat(x_proj),
        dt_proj=matrix(gradients.from_step, sizes.wide, sizes.rank, inner).t(),
        dt_bias=torch.from_numpy(gradients.step_bias)[:inner],
        A=A[:inner],
        D=torch.from_numpy(gradients.D)[:inner],
        out_proj=matrix(gradients.out, sizes.width, inner, channels).t(),
    )
    # .contiguous() would keep the strides of a single column, and DDP expects those of the parameter.
    return MixerWeights(*(g.clone(memory_format=torch.contiguous_format) for g in shaped))
