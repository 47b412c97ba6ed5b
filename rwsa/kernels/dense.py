"""A dense block: dilated 3×3 convolutions, each with instance norm and PReLU and fed by all earlier outputs.

Legend: B batch, C channels, T frames, F frequency bins, L layers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rwsa.kernels import convolution_loops as loops
from rwsa.kernels.convolution import Sources, convolve, transposed, weight_gradients
from rwsa.kernels.dispatch import has_cpu_kernel, needs_gradients, runs_directly
from rwsa.kernels.layout import flat
from rwsa.kernels.planes import (
    PlaneShape,
    from_planes,
    new_planes,
    plane_shape,
    plane_size,
    starts_of_planes,
    to_planes,
)
from rwsa.kernels.simd import LANES
from rwsa.kernels.threads import run_in_parts

NORM_EPSILON = 1e-5
# Wider layers are as fast in torch.
_MOST_CHANNELS = 32


class DenseLayer(NamedTuple):
    """Parameters of a layer."""

    conv: Tensor  # C, l C, 3, 3: the channels of the newest output first
    bias: Tensor  # C, of the convolution; without effect, since the norm subtracts it
    scale: Tensor  # C, of the norm
    shift: Tensor  # C, of the norm
    slope: Tensor  # C, of the PReLU


class _Planes(NamedTuple):
    """A set of channel planes: an array and where in it the set begins."""

    array: np.ndarray
    start: int


def has_dense_kernel(x_BCTF: Tensor) -> bool:
    """Whether `dense_block` handles `x`; elsewhere torch's operations are as fast, or the only ones."""
    _, channels, frames, bins = x_BCTF.shape
    return has_cpu_kernel(x_BCTF) and channels <= _MOST_CHANNELS and channels % 4 == 0 and frames * bins > 1


def dense_block(x_BCTF: Tensor, layers: list[DenseLayer]) -> Tensor:
    """The output of the last layer, `[B, C, T, F]` in `torch.channels_last`, computed in float32.

    Layer l (from 0) has dilation 2^l along T. Only the convolutions' outputs are saved for gradients.
    """
    x_BTFC = x_BCTF.permute(0, 2, 3, 1).float().contiguous()
    tensors = [w.float() for layer in layers for w in layer]
    run = _run_layers if runs_directly(x_BCTF, *tensors) else _dense
    out_BTFC, _, _ = run(x_BTFC, tensors, needs_gradients(x_BCTF, *tensors))
    return out_BTFC.permute(0, 3, 1, 2).to(x_BCTF.dtype)


def _run_layers(x: Tensor, tensors: list[Tensor], save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Output; where `save`, also the convolutions' outputs in planes, and their statistics `[L, 2, B, C]`."""
    layers, shape, rows = _layers(tensors), plane_shape(x), x.shape[0] * x.shape[1]
    # The block's input, then each layer's output; without gradients, it replaces the convolution's.
    planes, starts = new_planes(len(layers) + 1, rows, shape)
    values, values_starts = new_planes(len(layers), rows, shape) if save else (planes, starts[1:])
    statistics = np.empty((len(layers), 2, x.shape[0], shape.channels), np.float32)
    to_planes(x, planes, starts[0])
    for number, layer in enumerate(layers):
        convolved = _Planes(values, values_starts[number])
        moments = convolve(_sources(planes, starts, number), layer.conv, shape, rows, *convolved)
        statistics[number] = _merged(moments.reshape(x.shape[0], shape.frames, shape.channels, 2), shape.bins)
        _normalise(layer, statistics[number], shape, convolved, _Planes(planes, starts[number + 1]))
    out = torch.empty_like(x)
    from_planes(planes, starts[-1], out)
    if not np.isfinite(statistics).all():
        out.fill_(torch.nan)  # the loops' arithmetic may drop what is not finite
    if not save:
        return out, x.new_empty(0), x.new_empty(0)
    return out, torch.from_numpy(values), torch.from_numpy(statistics)


_dense = torch.library.custom_op("rwsa::dense_cpu", _run_layers, mutates_args=())


@_dense.register_fake
def _(x, tensors, save):  # type: ignore[no-untyped-def]
    if not save:
        return torch.empty_like(x), x.new_empty(0), x.new_empty(0)
    layers, shape = len(_layers(tensors)), plane_shape(x)
    saved = LANES + layers * plane_size(x.shape[0] * x.shape[1], shape)
    return torch.empty_like(x), x.new_empty(saved), x.new_empty(layers, 2, x.shape[0], shape.channels)


@torch.library.custom_op("rwsa::dense_cpu_backward", mutates_args=())
def _dense_backward(
    dout: Tensor, x: Tensor, tensors: list[Tensor], saved: Tensor, saved_statistics: Tensor
) -> list[Tensor]:
    """Gradients of x and of the layers' parameters."""
    layers, shape, rows = _layers(tensors), plane_shape(x), x.shape[0] * x.shape[1]
    values, statistics = saved.numpy(), saved_statistics.numpy()
    values_starts = starts_of_planes(len(layers), rows, shape)
    convolved = [_Planes(values, start) for start in values_starts]
    planes, starts = new_planes(len(layers), rows, shape)
    to_planes(x, planes, starts[0])
    for number, layer in enumerate(layers[:-1]):
        to = _Planes(planes, starts[number + 1])
        _normalise(layer, statistics[number], shape, convolved[number], to)
    # Gradients of the block's input, then of the layers' outputs, which those of the convolutions' replace.
    slopes, slopes_starts = new_planes(len(layers) + 1, rows, shape)
    to_planes(dout, slopes, slopes_starts[-1])
    gradients: list[Tensor] = []
    for number in reversed(range(len(layers))):
        own = _Planes(slopes, slopes_starts[number + 1])
        norm = _normalise_backward(layers[number], statistics[number], shape, convolved[number], own)
        gradients = [
            weight_gradients(_sources(planes, starts, number), *own, shape, rows),
            torch.zeros_like(layers[number].bias),
            *norm,
            *gradients,
        ]
        # Input `number` was read by this layer and all later ones.
        later = Sources(slopes, slopes_starts[number + 1 :], 2 ** np.arange(number, len(layers)))
        weight = transposed(
            [layer.conv.split(shape.channels, dim=1)[i] for i, layer in enumerate(layers[number:])]
        )
        convolve(later, weight, shape, rows, slopes, slopes_starts[number])
    dx = torch.empty_like(x)
    from_planes(slopes, slopes_starts[0], dx)
    return [dx, *gradients]


@_dense_backward.register_fake
def _(dout, x, tensors, saved, saved_statistics):  # type: ignore[no-untyped-def]
    return [torch.empty_like(t) for t in (x, *tensors)]


def _save_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, tensors, _ = inputs
    ctx.save_for_backward(x, *tensors, *output[1:])


def _gradients(ctx, dout, *_):  # type: ignore[no-untyped-def]
    x, *tensors, saved, statistics = ctx.saved_tensors
    dx, *dtensors = _dense_backward(dout.contiguous(), x, tensors, saved, statistics)
    return dx, dtensors, None


_dense.register_autograd(_gradients, setup_context=_save_context)


def _layers(tensors: list[Tensor]) -> list[DenseLayer]:
    count = len(DenseLayer._fields)
    return [DenseLayer(*tensors[i : i + count]) for i in range(0, len(tensors), count)]


def _sources(planes: np.ndarray, starts: np.ndarray, layer: int) -> Sources:
    """What layer `layer` convolves: its newest input first."""
    return Sources(planes, starts[layer::-1].copy(), np.full(layer + 1, 2**layer))


def _merged(moments_BTC2: np.ndarray, bins: int) -> np.ndarray:
    """Mean and inverse deviation `[2, B, C]`, from `convolve`'s moments of rows of `bins`."""
    means, squares = np.moveaxis(moments_BTC2.astype(np.float64), -1, 0)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = means.mean(axis=1)
        variance = squares.mean(axis=1) / bins + means.var(axis=1)
        return np.stack((mean, 1 / np.sqrt(variance + NORM_EPSILON)))


def _interleaved(*values: np.ndarray) -> np.ndarray:
    """Arrays `[B, C]` as one `[B, C, n]`, flat."""
    return np.stack(values, axis=-1).astype(np.float32).reshape(-1)


def _affine(layer: DenseLayer, statistics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift `[B, C]` of a layer's norm."""
    mean, inverse = statistics
    scale = inverse * flat(layer.scale)
    return scale, flat(layer.shift) - mean * scale


def _normalise(
    layer: DenseLayer, statistics: np.ndarray, shape: PlaneShape, source: _Planes, target: _Planes
) -> None:
    """A layer's norm and PReLU."""
    affine, slope = _interleaved(*_affine(layer, statistics)), flat(layer.slope)
    run_in_parts(
        statistics.shape[1] * shape.frames,
        lambda _, *span: loops.normalise(*source, affine, slope, shape, *target, *span),
    )


def _normalise_backward(
    layer: DenseLayer, statistics: np.ndarray, shape: PlaneShape, source: _Planes, slopes: _Planes
) -> list[Tensor]:
    """Replace gradients of `_normalise`'s output by those of its input; returns those of its parameters."""
    mean, inverse = statistics
    batch, channels = mean.shape
    rows, slope, affine = batch * shape.frames, flat(layer.slope), _affine(layer, statistics)
    sums = np.empty((batch, shape.frames, channels, 3), np.float32)
    forward = _interleaved(*affine, inverse, -mean * inverse)
    run_in_parts(
        rows,
        lambda _, *span: loops.normalise_sums(
            *source, *slopes, forward, slope, shape, sums.reshape(-1), *span
        ),
    )
    shifts, scales, slope_sums = np.moveaxis(sums.sum(axis=1, dtype=np.float64), -1, 0)
    size = shape.frames * shape.bins
    by_value = -affine[0] * inverse * scales / size
    backward = _interleaved(*affine, by_value, -affine[0] * shifts / size - by_value * mean)
    run_in_parts(
        rows, lambda _, *span: loops.normalise_backward(*source, backward, slope, shape, *slopes, *span)
    )
    return [torch.from_numpy(s.sum(axis=0).astype(np.float32)) for s in (scales, shifts, slope_sums)]
