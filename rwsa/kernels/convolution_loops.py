"""Compiled loops of 3×3 convolution, instance norm and PReLU on channel planes, for the CPU.

Legend: B batch, C channels, T frames, P pitch (see `planes`), S sources, O outputs.
"""

from __future__ import annotations

import numpy as np

from rwsa.kernels.planes import PAIR
from rwsa.kernels.simd import (
    LANES,
    broadcast,
    kernel,
    load,
    maximum,
    part_of_kernel,
    splat,
    store,
    total,
    where_positive,
)
from rwsa.kernels.tiles import add_products, add_scaled, load_tile, store_tile, zero_tile

_ZERO, _ONE = np.float32(0), np.float32(1)
# Rows whose weight gradients are summed before they are added to memory: their slopes fit in the L1 cache.
_GROUP = 2


@part_of_kernel()
def _bins_mask(shape):  # type: ignore[no-untyped-def]
    """1 for each bin, 0 beyond the last: `[width]`."""
    mask = np.zeros(shape.width, np.float32)
    mask[: shape.bins] = _ONE
    return mask


@kernel()
def convolve(planes, starts, dilations, weights, outputs, shape, out, begin, first, last):  # type: ignore[no-untyped-def]
    """Sum of the 3×3 convolutions of several sources, for rows first…last-1 of `[B·T]`.

    Args:
        planes: sources `[B, T, C, P]`, which begin at `starts` `[S]`.
        dilations: `[S]`, along T.
        weights: `[C / O, S, 3, C, 3, O]`.
        outputs: a tuple of O elements.
        shape: `PlaneShape`.
        out: written from `begin` on; bins beyond the last are not zero.
    """
    frames, channels, width, pitch = shape.frames, shape.channels, shape.width, shape.pitch
    count, plane = len(outputs), channels * pitch
    per_frame = channels * 3 * count
    for row in range(first, last):
        t = row % frames
        for o in range(0, channels, count):
            block = o // count * starts.size * 3
            for f in range(0, width, PAIR):
                left, right = zero_tile(outputs), zero_tile(outputs)
                for s in range(starts.size):
                    for tap in range(3):
                        lag = (tap - 1) * dilations[s]
                        if 0 <= t + lag < frames:
                            at = starts[s] + (row + lag) * plane + f
                            w = (block + s * 3 + tap) * per_frame
                            for _ in range(channels):
                                for shift in range(-1, 2):
                                    left = add_scaled(left, load(planes, at + shift), weights, w)
                                    right = add_scaled(right, load(planes, at + LANES + shift), weights, w)
                                    w += count
                                at += pitch
                target = begin + row * plane + o * pitch + f
                store_tile(out, target, pitch, left)
                store_tile(out, target + LANES, pitch, right)


@kernel()
def weight_gradients(  # type: ignore[no-untyped-def]
    planes, starts, dilation, slopes, begin, outputs, products, shape, sums, first, last
):
    """Gradients of the weights of `convolve` from rows first…last-1.

    Args:
        planes, starts, shape: as there; all sources have one dilation.
        slopes: gradients of the output, zero beyond the last bin, which begin at `begin`.
        outputs, products: tuples of O and 3 O elements.
        sums: `[C / O, S, 3, C, O, 3]`, written.
    """
    frames, channels, width, pitch = shape.frames, shape.channels, shape.width, shape.pitch
    count, plane, tile_size = len(outputs), channels * pitch, 3 * len(outputs) * LANES
    lanes = np.zeros(sums.size * LANES, np.float32)
    for group in range(first, last, _GROUP):
        at_sums = 0
        for o in range(0, channels, count):
            for s in range(starts.size):
                for tap in range(3):
                    lag = (tap - 1) * dilation
                    for c in range(channels):
                        tile = load_tile(products, lanes, at_sums, LANES)
                        for row in range(group, min(group + _GROUP, last)):
                            if 0 <= row % frames + lag < frames:
                                at = starts[s] + (row + lag) * plane + c * pitch
                                slope = begin + row * plane + o * pitch
                                for f in range(0, width, LANES):
                                    tile = add_products(
                                        tile,
                                        load(planes, at + f - 1),
                                        load(planes, at + f),
                                        load(planes, at + f + 1),
                                        slopes,
                                        slope + f,
                                        pitch,
                                    )
                        store_tile(lanes, at_sums, LANES, tile)
                        at_sums += tile_size
    for i in range(sums.size):
        sums[i] = total(load(lanes, i * LANES))


@kernel()
def row_moments(values, begin, shape, moments, first, last):  # type: ignore[no-untyped-def]
    """Each row's mean and sum of squared deviations from it, by channel: `moments` `[B, T, C, 2]`."""
    channels, width, pitch, mask = shape.channels, shape.width, shape.pitch, _bins_mask(shape)
    for line in range(first * channels, last * channels):
        at, summed, squares = begin + line * pitch, splat(_ZERO), splat(_ZERO)
        for f in range(0, width, LANES):
            summed = summed + load(mask, f) * load(values, at + f)
        mean = total(summed) / np.float32(shape.bins)
        for f in range(0, width, LANES):
            deviation = load(mask, f) * (load(values, at + f) - splat(mean))
            squares = squares + deviation * deviation
        moments[2 * line], moments[2 * line + 1] = mean, total(squares)


@part_of_kernel()
def _minimum_0(x):  # type: ignore[no-untyped-def]
    return splat(_ZERO) - maximum(splat(_ZERO) - x, splat(_ZERO))


@kernel()
def normalise(values, begin, affine, slope, shape, out, out_begin, first, last):  # type: ignore[no-untyped-def]
    """PReLU(values · scale + shift), zero beyond the last bin; affine: `[B, C, 2]`, scale and shift."""
    channels, width, pitch, mask = shape.channels, shape.width, shape.pitch, _bins_mask(shape)
    for row in range(first, last):
        for c in range(channels):
            line = (row * channels + c) * pitch
            at, to = begin + line, out_begin + line
            coefficients = 2 * (row // shape.frames * channels + c)
            scale, shift = broadcast(affine, coefficients), broadcast(affine, coefficients + 1)
            negative = broadcast(slope, c)
            for f in range(0, width, LANES):
                u = load(values, at + f) * scale + shift
                z = maximum(u, splat(_ZERO)) + negative * _minimum_0(u)
                store(out, to + f, load(mask, f) * z)
            store(out, to + width, splat(_ZERO))


@kernel()
def normalise_sums(values, begin, dout, dout_begin, affine, slope, shape, sums, first, last):  # type: ignore[no-untyped-def]
    """Each row's sums that the gradients of `normalise` need, by channel.

    Args:
        values, slope, shape: as there.
        dout: gradients of its output in planes, which begin at `dout_begin`.
        affine: `[B, C, 4]`, scale and shift as there, then those of the normalised values alone.
        sums: `[B, T, C, 3]`, written: of the gradients before the PReLU, of those times the normalised
            values, and of the slope's gradients.
    """
    channels, width, pitch, mask = shape.channels, shape.width, shape.pitch, _bins_mask(shape)
    for row in range(first, last):
        for c in range(channels):
            line = row * channels + c
            at, d = begin + line * pitch, dout_begin + line * pitch
            coefficients = 4 * (row // shape.frames * channels + c)
            scale, shift = broadcast(affine, coefficients), broadcast(affine, coefficients + 1)
            own_scale, own_shift = broadcast(affine, coefficients + 2), broadcast(affine, coefficients + 3)
            negative = broadcast(slope, c)
            shifts, scales, slopes = splat(_ZERO), splat(_ZERO), splat(_ZERO)
            for f in range(0, width, LANES):
                value, dz = load(values, at + f), load(mask, f) * load(dout, d + f)
                u = value * scale + shift
                du = where_positive(u, dz, negative * dz)
                shifts = shifts + du
                scales = scales + du * (value * own_scale + own_shift)
                slopes = slopes + dz * _minimum_0(u)
            sums[3 * line], sums[3 * line + 1] = total(shifts), total(scales)
            sums[3 * line + 2] = total(slopes)


@kernel()
def normalise_backward(values, begin, affine, slope, shape, slopes, slopes_begin, first, last):  # type: ignore[no-untyped-def]
    """Replace gradients of the output of `normalise` in `slopes` by those of its input.

    affine: `[B, C, 4]`: scale and shift as there, then how the input's gradient depends on the input itself,
    by its mean and its variance: a factor and a constant.
    """
    channels, width, pitch, mask = shape.channels, shape.width, shape.pitch, _bins_mask(shape)
    for row in range(first, last):
        for c in range(channels):
            line = (row * channels + c) * pitch
            at, d = begin + line, slopes_begin + line
            coefficients = 4 * (row // shape.frames * channels + c)
            scale, shift = broadcast(affine, coefficients), broadcast(affine, coefficients + 1)
            factor, constant = broadcast(affine, coefficients + 2), broadcast(affine, coefficients + 3)
            negative = broadcast(slope, c)
            for f in range(0, width, LANES):
                value, dz = load(values, at + f), load(slopes, d + f)
                du = where_positive(value * scale + shift, dz, negative * dz)
                store(slopes, d + f, load(mask, f) * (scale * du + factor * value + constant))
            store(slopes, d + width, splat(_ZERO))
