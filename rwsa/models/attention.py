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

    def forward(self, x_BTFC: Tensor, axis: SequenceAxis) -> Tensor:
        return self.out(attend(self.qkv(self.norm(x_BTFC)), self.heads, axis))


class BlendedAttention(nn.Module):
    """g · shared(x) + (1 − g) · own(x), where g = sigmoid(logit) is learned and begins at 1/2.

    Not of the paper: it lets training say how much of the encoder's attention a decoder block wants.
    """

    def __init__(self, shared: AxialAttention, own: AxialAttention) -> None:
        super().__init__()
        self.shared, self.own = shared, own
        self.logit = nn.Parameter(torch.zeros(()))

    @property
    def shared_share(self) -> Tensor:
        """g, a scalar from 0 (its own alone) to 1 (the shared one alone)."""
        return self.logit.sigmoid()

    def forward(self, x_BTFC: Tensor, axis: SequenceAxis) -> Tensor:
        return torch.lerp(self.own(x_BTFC, axis), self.shared(x_BTFC, axis), self.shared_share)
