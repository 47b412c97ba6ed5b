"""3×3 convolutions over channel planes, and the gradients of their weights.

Legend: B batch, C channels, T frames, S sources, O outputs at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rwsa.kernels import convolution_loops as loops
from rwsa.kernels.layout import flat
from rwsa.kernels.planes import PlaneShape
from rwsa.kernels.threads import PARTS, run_in_parts
from rwsa.kernels.tiles import outputs_at_once


class Sources(NamedTuple):
    """Sets of channel planes, the inputs of a convolution."""

    planes: np.ndarray
    starts: np.ndarray  # S
    dilations: np.ndarray  # S, along T


def convolve(
    sources: Sources, weight: Tensor, shape: PlaneShape, rows: int, out: np.ndarray, start: int
) -> np.ndarray:
    """Convolve `rows` (B · T) rows into `out` from `start` on; weight: `[C, S C, 3, 3]`.

    Returns each row's mean and sum of squared deviations by channel, `[rows, C, 2]`.
    """
    outputs = outputs_at_once(shape.channels)
    moments = np.empty((rows, shape.channels, 2), np.float32)
    w = weight.detach().unflatten(1, (-1, shape.channels)).unflatten(0, (-1, len(outputs)))
    packed = flat(w.permute(0, 2, 4, 3, 5, 1))  # C/O S 3 C 3 O

    def run(_: int, first: int, last: int) -> None:
        loops.convolve(*sources, packed, outputs, shape, out, start, first, last)
        loops.row_moments(out, start, shape, moments.reshape(-1), first, last)

    run_in_parts(rows, run)
    return moments


def weight_gradients(
    sources: Sources, slopes: np.ndarray, start: int, shape: PlaneShape, rows: int
) -> Tensor:
    """Gradients of the weight of `convolve`, whose sources have one dilation.

    slopes: gradients of its output from `start` on, zero beyond the last bin.
    """
    outputs, channels = outputs_at_once(shape.channels), shape.channels
    blocks, count, dilation = channels // len(outputs), len(sources.starts), int(sources.dilations[0])
    sums = np.empty((min(PARTS, rows), blocks, count, 3, channels, len(outputs), 3), np.float32)

    def run(part: int, first: int, last: int) -> None:
        loops.weight_gradients(
            sources.planes, sources.starts, dilation, slopes, start, outputs, outputs * 3, shape,
            sums[part].reshape(-1), first, last,
        )  # fmt: skip

    run_in_parts(rows, run)
    by_output = torch.from_numpy(sums.sum(axis=0)).permute(0, 4, 1, 3, 2, 5)
    return by_output.reshape(channels, count * channels, 3, 3)


def transposed(weights: list[Tensor]) -> Tensor:
    """The weight `[C, S C, 3, 3]` that convolves gradients of S outputs to that of their common input.

    weights: `[C, C, 3, 3]` each, which convolve that input to an output.
    """
    return torch.cat([w.detach().transpose(0, 1) for w in weights], dim=1).flip(2, 3)
