"""Multi-head self-attention along one axis of `[B, T, F, C]`.

Legend: B batch, T frames, F frequency bins, C channels, H heads, L length of the attended axis.
"""

from __future__ import annotations

from enum import IntEnum

from torch import Tensor, nn
from torch.nn import functional as F


class Axis(IntEnum):
    """The axis of `[B, T, F, C]` along which a sequence runs."""

    TIME = 1
    FREQUENCY = 2


class AxialAttention(nn.Module):
    """x → MHA(LayerNorm(x)) along either axis, with the same weights; no positional encoding.

    One instance may serve time and frequency, and encoder and decoder: that is the sharing of RWSA.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_BTFC: Tensor, axis: Axis) -> Tensor:
        qkv = self.qkv(self.norm(x_BTFC)).unflatten(-1, (3, self.heads, -1))
        if axis is Axis.TIME:
            qkv = qkv.transpose(1, 2)
        batch, rows = qkv.shape[:2]
        q, k, v = qkv.flatten(0, 1).permute(2, 0, 3, 1, 4)  # each (B rows) H L head width
        attended = F.scaled_dot_product_attention(q, k, v)
        attended = attended.transpose(1, 2).flatten(2).unflatten(0, (batch, rows))
        if axis is Axis.TIME:
            attended = attended.transpose(1, 2)
        return self.out(attended)
