"""The network as one would first write it: sequences are copied into rows, reversed by flips, and scanned.

Only `mix_both` differs, and it has the same values; attention and convolutions are the network's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from rwsa.kernels.layout import SequenceAxis
from rwsa.kernels.mixer import NORM_EPSILON, MixerWeights
from rwsa.kernels.scan import selective_scan


@contextmanager
def straightforward() -> Iterator[None]:
    """Mixers inside run as here."""
    with patch("rwsa.models.mamba.mix_both", mix_both):
        yield


def mix_both(
    x_BTFC: Tensor,
    directions: tuple[MixerWeights, MixerWeights],
    merge: Tensor,
    bias: Tensor,
    axis: SequenceAxis,
) -> Tensor:
    """As `rwsa.kernels.mixer.mix_both`."""
    across = axis is SequenceAxis.TIME
    rows = (x_BTFC.transpose(1, 2) if across else x_BTFC).contiguous()
    sequences = rows.flatten(0, 1)
    forward = _mix(sequences, directions[0])
    backward = _mix(sequences.flip(1).contiguous(), directions[1]).flip(1)
    merged = F.linear(torch.cat((forward, backward), dim=-1), merge, bias).view(rows.shape)
    return x_BTFC + (merged.transpose(1, 2) if across else merged)


def _mix(x_SLC: Tensor, weights: MixerWeights) -> Tensor:
    normed = F.rms_norm(x_SLC, weights.norm.shape, weights.norm, NORM_EPSILON)
    inner, z = F.linear(normed, weights.in_proj).transpose(1, 2).chunk(2, dim=1)
    channels, _, taps = weights.conv.shape
    padded = F.pad(inner, (taps - 1, 0))
    convolved = F.conv1d(padded, weights.conv, weights.conv_bias, groups=channels)
    u = F.silu(convolved).transpose(1, 2).contiguous()
    rank, states = weights.dt_proj.shape[1], weights.A.shape[1]
    step, B, C = F.linear(u, weights.x_proj).split([rank, states, states], dim=-1)
    delta = F.softplus(F.linear(step, weights.dt_proj, weights.dt_bias))
    gate = z.transpose(1, 2).contiguous()
    y = selective_scan(u, delta, weights.A, B.contiguous(), C.contiguous(), weights.D, gate)
    return x_SLC + F.linear(y, weights.out_proj)
