"""Multi-head self-attention along one axis of `[B, T, F, C]`.

Legend: B batch, T frames, F frequency bins, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rwsa.kernels.attention import attend
from rwsa.kernels.layout import SequenceAxis


class AxialAttention(nn.Module):
    """x → MHA(LayerNorm(x)) along either axis, with the same weights; no positional encoding.

    RWSA's sharing is one instance for time and frequency, and for encoder and decoder.
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

    def forward(self, x_BTFC: Tensor, axis: SequenceAxis) -> Tensor:
        return self.out(attend(self.qkv(self.norm(x_BTFC)), self.heads, axis))


class BlendedAttention(nn.Module):
    """g · shared(x) + (1 − g) · own(x), where g = sigmoid(logit) is learned, initially 1/2.

    Not in the paper. g is the learned share of the encoder's attention in a decoder block.
    """

    def __init__(self, shared: AxialAttention, own: AxialAttention) -> None:
        super().__init__()
        self.shared, self.own = shared, own
        self.logit = nn.Parameter(torch.zeros(()))

    @property
    def shared_weight(self) -> Tensor:
        """g, a scalar from 0 (only its own attention) to 1 (only the shared one)."""
        return self.logit.sigmoid()

    def forward(self, x_BTFC: Tensor, axis: SequenceAxis) -> Tensor:
        return torch.lerp(self.own(x_BTFC, axis), self.shared(x_BTFC, axis), self.shared_weight)
