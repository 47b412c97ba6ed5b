"""MP-SENet's Conformer along one axis of `[B, T, F, C]`.

Source: Lu et al. 2023, "MP-SENet" (arXiv 2305.13686), in the form of its published Conformer version.
Legend: B batch, T frames, F frequency bins, C channels, H heads, L length, W width of a head, R rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rwsa.kernels.attention import attend
from rwsa.kernels.layout import SequenceAxis
from rwsa.models.batch_norm import GlobalBatchNorm
from rwsa.models.dropout import ClipGenerators, drop

_KERNEL, _DROPOUT = 31, 0.2


class Conformer(nn.Module):
    """x → LN(x + FF/2 + attention + convolution + FF/2), each of four residuals on the one before.

    Args:
        across_batch: attend as MP-SENet's published code does, which passes sequences first to an attention
            that takes positions first. Each frame then attends over the frequencies of all clips of the batch
            where it should attend over time, and each frequency over their frames.
    """

    def __init__(self, channels: int, heads: int, *, expand: float = 4, across_batch: bool = False) -> None:
        super().__init__()
        self.first = _FeedForward(channels, expand)
        self.attention = _Attention(channels, heads, across_batch=across_batch)
        self.convolution = _Convolution(channels, expand)
        self.second = _FeedForward(channels, expand)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x_BTFC: Tensor, axis: SequenceAxis, dropout: ClipGenerators | None = None) -> Tensor:
        x = x_BTFC + 0.5 * self.first(x_BTFC, dropout)
        x = x + self.attention(x, axis, dropout)
        x = x + self.convolution(x, axis)
        return self.norm(x + 0.5 * self.second(x, dropout))


class _FeedForward(nn.Module):
    def __init__(self, channels: int, expand: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        inner = round(expand * channels)
        self.widen = nn.Linear(channels, inner)
        self.narrow = nn.Linear(inner, channels)

    def forward(self, x_BTFC: Tensor, dropout: ClipGenerators | None) -> Tensor:
        hidden = drop(F.silu(self.widen(self.norm(x_BTFC))), _DROPOUT, dropout)
        return drop(self.narrow(hidden), _DROPOUT, dropout)


class _Attention(nn.Module):
    def __init__(self, channels: int, heads: int, *, across_batch: bool) -> None:
        super().__init__()
        self.heads, self.across_batch = heads, across_batch
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_BTFC: Tensor, axis: SequenceAxis, dropout: ClipGenerators | None) -> Tensor:
        qkv, along = self.qkv(self.norm(x_BTFC)), axis
        if self.across_batch:  # all clips as one, along the other axis
            along = SequenceAxis.FREQUENCY if axis is SequenceAxis.TIME else SequenceAxis.TIME
            qkv = _joined(qkv, along)
        if dropout is None:
            y = attend(qkv, self.heads, along)
        else:
            y = _attend_with_dropout(qkv, self.heads, along, dropout[: len(qkv)])
        return self.out(_parted(y, along, len(x_BTFC)) if self.across_batch else y)


def _joined(x_BTFC: Tensor, axis: SequenceAxis) -> Tensor:
    """The clips of a batch one after another along `axis`, as one clip."""
    return torch.cat(x_BTFC.split(1), dim=axis.value)


def _parted(x_BTFC: Tensor, axis: SequenceAxis, clips: int) -> Tensor:
    """The inverse of `_joined`."""
    return torch.cat(x_BTFC.chunk(clips, dim=axis.value))


def _attend_with_dropout(
    qkv_BTF3C: Tensor, heads: int, axis: SequenceAxis, generators: ClipGenerators
) -> Tensor:
    """`attend` with dropout on its weights, clip by clip, since these take the most memory."""
    outputs = list[Tensor]()
    for qkv_TF3C, generator in zip(qkv_BTF3C, generators, strict=True):
        rows = qkv_TF3C.transpose(0, 1) if axis is SequenceAxis.TIME else qkv_TF3C
        q, k, v = rows.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # each R H L W
        weights = torch.softmax(q * q.shape[-1] ** -0.5 @ k.mT, dim=-1)
        dropped = drop(weights.unsqueeze(0), _DROPOUT, [generator]).squeeze(0).to(v.dtype)
        y = (dropped @ v).transpose(1, 2).flatten(2)
        outputs.append(y.transpose(0, 1) if axis is SequenceAxis.TIME else y)
    return torch.stack(outputs)


class _Convolution(nn.Module):
    """Gated pointwise layer, centred depthwise convolution, batch norm, SiLU, pointwise layer."""

    def __init__(self, channels: int, expand: float) -> None:
        super().__init__()
        inner = round(expand * channels) // 2
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, 2 * inner)
        self.depthwise = nn.Conv1d(inner, inner, _KERNEL, groups=inner)
        self.batch_norm = GlobalBatchNorm(inner)
        self.narrow = nn.Linear(inner, channels)

    def forward(self, x_BTFC: Tensor, axis: SequenceAxis) -> Tensor:
        gated = F.glu(self.widen(self.norm(x_BTFC)))
        along = (_KERNEL, 1) if axis is SequenceAxis.TIME else (1, _KERNEL)
        weight = self.depthwise.weight.unflatten(-1, along)
        padding = tuple(size // 2 for size in along)
        y_BCTF = F.conv2d(
            gated.permute(0, 3, 1, 2), weight, self.depthwise.bias, padding=padding, groups=len(weight)
        )
        return self.narrow(F.silu(self.batch_norm(y_BCTF.permute(0, 2, 3, 1))))
