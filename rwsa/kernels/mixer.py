"""A bidirectional Mamba mixer with its residual along one axis of `[B, T, F, C]`, in torch or compiled.

Legend: B batch, T frames, F frequency bins, C channels, D inner channels, R rank of the step, N states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rwsa.kernels import mixer_loops as loops
from rwsa.kernels.dispatch import has_cpu_kernel, needs_gradients
from rwsa.kernels.layout import SequenceAxis, as_sequences, flat
from rwsa.kernels.mixer_loops_backward import Sums, mixer_backward
from rwsa.kernels.scan import resolve_backend, selective_scan
from rwsa.kernels.simd import LANES, LOG2_E
from rwsa.kernels.threads import PARTS, buffer, run_in_parts

NORM_EPSILON = 1e-5
_CHUNK_STEPS = 16


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


def mix_both(
    x_BTFC: Tensor,
    directions: tuple[MixerWeights, MixerWeights],
    merge: Tensor,
    bias: Tensor,
    axis: SequenceAxis,
) -> Tensor:
    """x + merge @ [forward, backward] + bias along `axis`, where each direction is x + Mamba(RMSNorm(x)).

    Where the scan's backend is `cpu`, it is one fused operator in float32 (except for float64 inputs), which
    saves only its input and some states for gradients; elsewhere it is `mix_both_reference`.

    Args:
        x_BTFC: the input.
        directions: the forward direction's weights and the backward direction's.
        merge: `[C, 2 C]`.
        bias: `[C]`.
        axis: the axis along which sequences run.
    """
    if resolve_backend(x_BTFC.device) == "cpu" and has_cpu_kernel(x_BTFC):
        tensors = [t.float() for t in (merge, bias, *directions[0], *directions[1])]
        save = needs_gradients(x_BTFC, *tensors)
        x, along_time = x_BTFC.float().contiguous(), axis is SequenceAxis.TIME
        if torch.compiler.is_compiling():
            out, _ = _mixer(x, tensors, along_time, save)
        elif save:
            out = _Mixer.apply(x, along_time, *tensors)  # type: ignore[no-untyped-call]
        else:
            out, _ = _compute(x, tensors, along_time, save)
        return out.to(x_BTFC.dtype)
    return mix_both_reference(x_BTFC, directions, merge, bias, axis)


def mix_both_reference(
    x_BTFC: Tensor,
    directions: tuple[MixerWeights, MixerWeights],
    merge: Tensor,
    bias: Tensor,
    axis: SequenceAxis,
) -> Tensor:
    """`mix_both` as separate torch operations, on any device and in any dtype."""
    both = [mix(x_BTFC, w, axis, reverse=r) for w, r in zip(directions, (False, True), strict=True)]
    return x_BTFC + F.linear(torch.cat(both, dim=-1), merge, bias)


def mix(x_BTFC: Tensor, weights: MixerWeights, axis: SequenceAxis, *, reverse: bool) -> Tensor:
    """x + Mamba(RMSNorm(x)) along `axis`; `reverse` is flip, mix, flip.

    The reverse direction flips no tensor: its convolution is anti-causal and its scan runs in reverse.

    Source: Gu & Dao 2023, "Mamba", section 3.4.
    """
    normed = F.rms_norm(x_BTFC, weights.norm.shape, weights.norm, NORM_EPSILON)
    # Splitting the weights rather than the results avoids copies.
    inner, z = (F.linear(normed, w) for w in weights.in_proj.chunk(2))
    u = F.silu(_causal_conv(inner, weights.conv, weights.conv_bias, axis, reverse=reverse))
    rank, states = weights.dt_proj.shape[1], weights.A.shape[1]
    # One product reads u once; the scan reads its parts where they are.
    step, B, C = F.linear(u, weights.x_proj).split([rank, states, states], dim=-1)
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


class _Mixer(torch.autograd.Function):
    """`_compute` with its gradients; tensors: merge, bias, and the `MixerWeights` of both directions.

    Outside torch.compile, since a registered operator costs more than a call.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, along_time: bool, *tensors: Tensor) -> Tensor:
        out, states = _compute(x, list(tensors), along_time, True)
        ctx.along_time = along_time
        ctx.save_for_backward(x, states, *tensors)
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, states, *tensors = ctx.saved_tensors
        dx, *dtensors = _compute_gradients(dout.contiguous(), x, tensors, states, ctx.along_time)
        return dx, None, *dtensors


def _compute(x: Tensor, tensors: list[Tensor], along_time: bool, save: bool) -> tuple[Tensor, Tensor]:
    """Output, and both directions' states before every chunk (empty unless `save`)."""
    merge, bias, *directions = _split(tensors)
    sizes, lines = _sizes(directions[0], merge), _lines(x, along_time)
    out, states = torch.empty_like(x), x.new_empty(_state_shape(x, sizes, lines, save))
    ends, x_flat, out_flat, states_flat = loops.chunk_ends(sizes), flat(x), flat(out), flat(states)
    packed = [_packed(w, half, sizes) for w, half in zip(directions, merge.chunk(2, dim=1), strict=True)]
    direct, offset = _padded(_direct(merge), sizes.channels, sizes.channels), _padded(bias, sizes.channels)
    forward: Callable[..., None] = loops.mixer_forward
    size = ends[-1] + sizes.inner * sizes.states * LANES

    def run(part: int, first: int, last: int) -> None:
        work = buffer(size)
        for number, weights in enumerate(packed):
            begin = number * states_flat.size // 2
            forward(
                x_flat, lines, sizes, ends, NORM_EPSILON, number == 1, save, weights, direct, offset,
                out_flat, states_flat[begin:], work, first, last,
            )  # fmt: skip

    run_in_parts(_groups(lines), run)
    return out, states


def _compute_gradients(
    dout: Tensor, x: Tensor, tensors: list[Tensor], states: Tensor, along_time: bool
) -> list[Tensor]:
    """Gradients of x and of the tensors."""
    merge, _, *directions = _split(tensors)
    sizes, lines = _sizes(directions[0], merge), _lines(x, along_time)
    dx, ends = torch.empty_like(x), loops.chunk_ends(sizes)
    halves = merge.chunk(2, dim=1)
    packed = [_packed(w, half, sizes) for w, half in zip(directions, halves, strict=True)]
    direct = _padded(_direct(merge), sizes.channels, sizes.channels)
    parts = min(PARTS, _groups(lines))
    counts = _sum_sizes(sizes)
    sums_ends = np.cumsum(counts)[:-1]
    sums = torch.zeros(parts, 2, sum(counts)).numpy()
    x_flat, dout_flat, dx_flat, states_flat = (flat(t) for t in (x, dout, dx, states))
    backward: Callable[..., None] = mixer_backward
    size = 2 * ends[-1] + (sizes.inner * sizes.states + 8 * sizes.steps + 4) * LANES

    def run(part: int, first: int, last: int) -> None:
        work = buffer(size)
        for number, weights in enumerate(packed):
            begin = number * states_flat.size // 2
            backward(
                x_flat, dout_flat, lines, sizes, ends, NORM_EPSILON, number == 1, weights, direct, dx_flat,
                states_flat[begin:], work, Sums(*np.split(sums[part, number], sums_ends)), first, last,
            )  # fmt: skip

    run_in_parts(_groups(lines), run)
    totals = [Sums(*np.split(s, sums_ends)) for s in sums.sum(axis=0)]
    channels = merge.shape[0]
    d_direct = _product(totals[0].merge, sizes.channels, sizes.channels)[:channels, :channels]
    found = [_unpacked(s, w, half, sizes) for s, w, half in zip(totals, directions, halves, strict=True)]
    dmerge = torch.cat([d_direct + dhalf for _, dhalf in found], dim=1)
    return [dx, dmerge, _of_lanes(totals[0].bias)[:channels].clone(), *found[0][0], *found[1][0]]


_mixer = torch.library.custom_op("rwsa::mixer_cpu", _compute, mutates_args=())
_mixer_backward = torch.library.custom_op("rwsa::mixer_cpu_backward", _compute_gradients, mutates_args=())


@_mixer.register_fake
def _(x, tensors, along_time, save):  # type: ignore[no-untyped-def]
    merge, _, *directions = _split(tensors)
    shape = _state_shape(x, _sizes(directions[0], merge), _lines(x, along_time), save)
    return torch.empty_like(x), x.new_empty(shape)


@_mixer_backward.register_fake
def _(dout, x, tensors, states, along_time):  # type: ignore[no-untyped-def]
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, *tensors)]


def _save_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, tensors, ctx.along_time, _ = inputs
    ctx.save_for_backward(x, output[1], *tensors)


def _gradients(ctx, dout, _):  # type: ignore[no-untyped-def]
    x, states, *tensors = ctx.saved_tensors
    dx, *dtensors = _mixer_backward(dout.contiguous(), x, tensors, states, ctx.along_time)
    return dx, dtensors, None, None


_mixer.register_autograd(_gradients, setup_context=_save_context)


def _split(tensors: list[Tensor]) -> tuple[Tensor, Tensor, MixerWeights, MixerWeights]:
    merge, bias, *weights = tensors
    half = len(weights) // 2
    return merge, bias, MixerWeights(*weights[:half]), MixerWeights(*weights[half:])


def _direct(merge: Tensor) -> Tensor:
    """The part of the output that x itself has: the residuals of block and directions, `[C, C]`."""
    forward, backward = merge.chunk(2, dim=1)
    return torch.eye(merge.shape[0]) + forward + backward


def _lines(x: Tensor, along_time: bool) -> tuple[int, int, int, int]:
    """Length, inner positions, channels and sequences, as `lane_loops.gather` has them."""
    axis = SequenceAxis.TIME if along_time else SequenceAxis.FREQUENCY
    outer, length, inner, channels = as_sequences(x, axis).shape
    return length, inner, channels, outer * inner


def _groups(lines: tuple[int, int, int, int]) -> int:
    return -(-lines[3] // LANES)


def _sizes(weights: MixerWeights, merge: Tensor) -> loops.Sizes:
    channels, inner = _multiple(merge.shape[0], 4), _multiple(weights.D.shape[0], 4)
    states, rank = _multiple(weights.A.shape[1], 2), _multiple(weights.dt_proj.shape[1], 2)
    taps = weights.conv.shape[-1]
    head = _multiple(taps - 1, 4)
    # Odd strides.
    narrow, wide, double, small = channels + 1, inner + 1, 2 * inner + 1, 2 * states + rank + 1
    return loops.Sizes(
        channels, inner, states, rank, taps, max(_CHUNK_STEPS, head), head, merge.shape[0],
        narrow, wide, double, small,
    )  # fmt: skip


def _multiple(count: int, of: int) -> int:
    return -(-count // of) * of


def _state_shape(
    x: Tensor, sizes: loops.Sizes, lines: tuple[int, int, int, int], save: bool
) -> tuple[int, ...]:
    if not save:
        return (0,)
    return 2, _groups(lines), -(-lines[0] // sizes.steps), sizes.inner, sizes.states, LANES


def _packed(weights: MixerWeights, merge_half: Tensor, sizes: loops.Sizes) -> loops.Weights:
    """The weights as the loops read them."""
    inner, states, rank, channels = sizes.inner, sizes.states, sizes.rank, sizes.channels
    true_rank, true_states = weights.dt_proj.shape[1], weights.A.shape[1]
    step, B, C = weights.x_proj.split([true_rank, true_states, true_states])
    return loops.Weights(
        norm=_padded(weights.norm, channels),
        in_proj=np.concatenate([_padded(half, inner, channels) for half in weights.in_proj.chunk(2)]),
        conv=_padded(weights.conv.squeeze(1), inner, sizes.taps),
        conv_bias=_padded(weights.conv_bias, inner),
        x_proj=np.concatenate(
            [_padded(part, rows, inner) for part, rows in ((B, states), (C, states), (step, rank))]
        ),
        dt_proj=_padded(weights.dt_proj, inner, rank),
        dt_bias=_padded(weights.dt_bias, inner),
        A2=_padded(weights.A.detach() * float(LOG2_E), inner, states),
        D=_padded(weights.D, inner),
        out=_padded(_matmul(merge_half, weights.out_proj), channels, inner),
    )


def _matmul(x: Tensor, y: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return x.detach() @ y.detach()


def _padded(weight: Tensor, *shape: int) -> np.ndarray:
    """A weight padded with zeros to `shape`, as a flat array."""
    if weight.shape == shape:
        return flat(weight)
    padded = np.zeros(shape, np.float32)
    padded[tuple(map(slice, weight.shape))] = weight.detach().numpy()
    return padded.reshape(-1)


def _sum_sizes(sizes: loops.Sizes) -> tuple[int, ...]:
    """Floats of every array of a `Sums`."""
    inner, channels = sizes.inner, sizes.channels
    counts = {
        "norm": channels * LANES,
        "in_proj": 2 * inner * channels,
        "conv": inner * sizes.taps * LANES,
        "conv_bias": inner * LANES,
        "x_proj": inner * (2 * sizes.states + sizes.rank),
        "dt_proj": inner * sizes.rank,
        "dt_bias": inner * LANES,
        "A2": inner * sizes.states * LANES,
        "D": inner * LANES,
        "out": inner * channels,
        "merge": channels * channels,
        "bias": channels * LANES,
    }
    return tuple(counts[name] for name in Sums._fields)


def _of_lanes(lanes: np.ndarray) -> Tensor:
    return torch.from_numpy(lanes.reshape(-1, LANES).sum(axis=1))


def _product(blocks: np.ndarray, rows: int, columns: int) -> Tensor:
    """The matrix `[rows, columns]` that `lane_loops.add_outer_products` summed."""
    return torch.from_numpy(
        blocks.reshape(rows // 4, columns // 2, 4, 2).swapaxes(1, 2).reshape(rows, columns)
    )


def _unpacked(
    sums: Sums, weights: MixerWeights, merge_half: Tensor, sizes: loops.Sizes
) -> tuple[MixerWeights, Tensor]:
    """Gradients in the shapes of `weights`, and that of the direction's half of the merge."""
    channels, inner = weights.out_proj.shape
    rank, states = weights.dt_proj.shape[1], weights.A.shape[1]
    small = _product(sums.x_proj, sizes.inner, 2 * sizes.states + sizes.rank).t()[:, :inner]
    both = _product(sums.in_proj, 2 * sizes.inner, sizes.channels)[:, :channels]
    dout = _product(sums.out, sizes.inner, sizes.channels).t()[:channels, :inner]
    B, C, step = small.split([sizes.states, sizes.states, sizes.rank])
    shaped = MixerWeights(
        norm=_of_lanes(sums.norm)[:channels],
        in_proj=torch.cat([half[:inner] for half in both.chunk(2)]),
        conv=_of_lanes(sums.conv).view(-1, 1, sizes.taps)[:inner],
        conv_bias=_of_lanes(sums.conv_bias)[:inner],
        x_proj=torch.cat([step[:rank], B[:states], C[:states]]),
        dt_proj=_product(sums.dt_proj, sizes.inner, sizes.rank)[:inner, :rank],
        dt_bias=_of_lanes(sums.dt_bias)[:inner],
        A=_of_lanes(sums.A2).view(-1, sizes.states)[:inner, :states],
        D=_of_lanes(sums.D)[:inner],
        out_proj=_matmul(merge_half.t(), dout),
    )
    # .contiguous() would keep the strides of a single column, and DDP expects those of the parameter.
    contiguous = MixerWeights(*(g.clone(memory_format=torch.contiguous_format) for g in shaped))
    return contiguous, _matmul(dout, weights.out_proj.t())
