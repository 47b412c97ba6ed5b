"""Bidirectional mLSTM along one axis of `[B, T, F, C]`: the mixer of xLSTM-SENet.

Source: Kühne et al. 2025, "xLSTM-SENet" (arXiv 2501.06146), whose block is that of Vision-LSTM (arXiv
2406.04303).
Legend: B batch, T frames, F frequency bins, C channels, N sequences, L length, D inner channels, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rwsa.kernels.layout import SequenceAxis
from rwsa.kernels.mlstm import mlstm_cell

_BLOCK = 4  # channels that the projections to queries, keys and values mix


class MLSTMBlock(nn.Module):
    """x + mLSTM block(LayerNorm(x)), causal along L of `[N, L, C]`."""

    def __init__(self, channels: int, heads: int, *, d_conv: int = 4, expand: int = 4) -> None:
        super().__init__()
        inner, self.heads = expand * channels, heads
        self.norm = _CentredNorm(channels)
        self.up = nn.Linear(channels, 2 * inner)  # x, then the gate z
        self.conv = nn.Conv1d(inner, inner, d_conv, groups=inner)
        self.query, self.key, self.value = (_BlockLinear(inner) for _ in range(3))
        self.input_gate = nn.Linear(3 * inner, heads)
        self.forget_gate = nn.Linear(3 * inner, heads)
        self.head_norm = _CentredNorm(inner, heads)
        self.skip = nn.Parameter(torch.ones(inner))
        self.down = nn.Linear(inner, channels)
        self._init_weights(channels)

    def _init_weights(self, channels: int) -> None:
        """As published: the initialization after the cell's own zeroes every linear layer's bias."""
        for layer in (self.up, self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (5 * channels)))
        nn.init.normal_(self.down.weight, std=2 / math.sqrt(channels))
        for gate in (self.input_gate, self.forget_gate):
            nn.init.zeros_(gate.weight)
        for linear in (self.up, self.down, self.input_gate, self.forget_gate):
            nn.init.zeros_(linear.bias)

    def forward(self, x_NLC: Tensor) -> Tensor:
        normed = self.norm(x_NLC)
        # Splitting the weights rather than the results avoids copies.
        u, z = (
            F.linear(normed, weight, bias)
            for weight, bias in zip(self.up.weight.chunk(2), self.up.bias.chunk(2), strict=True)
        )
        c = F.silu(_causal_conv(u, self.conv))
        q, k, v = (layer(x, self.heads) for layer, x in ((self.query, c), (self.key, c), (self.value, u)))
        h_HNLW = mlstm_cell(q, k, v, *self._gates(c, u))
        h_NLD = self.head_norm(h_HNLW.permute(1, 2, 0, 3).flatten(2))
        return x_NLC + self.down(torch.addcmul(h_NLD, self.skip, c) * F.silu(z))

    def _gates(self, c_NLD: Tensor, u_NLD: Tensor) -> tuple[Tensor, Tensor]:
        """Pre-activations `[H, N, L]` of both gates: linear in q, k and v, hence in c and u."""
        weight = torch.cat((self.input_gate.weight, self.forget_gate.weight))
        biases = torch.cat([layer.bias for layer in (self.query, self.key, self.value)])
        bias = torch.cat((self.input_gate.bias, self.forget_gate.bias)) + weight @ biases
        of_q, of_k, of_v = weight.chunk(3, dim=1)
        of_c = self.query.before(of_q) + self.key.before(of_k)
        gates = F.linear(c_NLD, of_c, bias) + F.linear(u_NLD, self.value.before(of_v))
        input_HNL, forget_HNL = gates.permute(2, 0, 1).chunk(2)
        return input_HNL, forget_HNL


def _causal_conv(x_NLD: Tensor, conv: nn.Conv1d) -> Tensor:
    length, taps = x_NLD.shape[1], conv.weight.shape[-1]
    x_NDL1 = x_NLD.unsqueeze(2).permute(0, 3, 1, 2)  # in torch.channels_last
    y = F.conv2d(x_NDL1, conv.weight.unsqueeze(-1), conv.bias, padding=(taps - 1, 0), groups=conv.groups)
    return y.permute(0, 2, 3, 1).squeeze(2)[:, :length]


class _BlockLinear(nn.Module):
    """A linear layer whose matrix is block-diagonal, with blocks `[to, from]` of four channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels // _BLOCK, _BLOCK, _BLOCK))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_NLD: Tensor, heads: int) -> Tensor:
        """By head, `[H, N, L, W]`; a dense product per head is faster than one per block."""
        blocks = self.weight.unflatten(0, (heads, -1))  # H, blocks of a head, to, from
        identity = torch.eye(blocks.shape[1], dtype=blocks.dtype, device=blocks.device)
        dense_HWW = torch.einsum("hboi,bc->hbico", blocks, identity).flatten(3).flatten(1, 2)
        x_HPW = x_NLD.flatten(0, 1).unflatten(-1, (heads, -1)).transpose(0, 1)
        bias_H1W = self.bias.unflatten(0, (heads, 1, -1))
        return torch.baddbmm(bias_H1W, x_HPW, dense_HWW).unflatten(1, x_NLD.shape[:2])

    def before(self, weight_OD: Tensor) -> Tensor:
        """The weight of a linear layer after this one, applied to this one's input."""
        by_block = weight_OD.unflatten(-1, (-1, _BLOCK))
        return torch.einsum("ago,goi->agi", by_block, self.weight).flatten(1)


class _CentredNorm(nn.Module):
    """Layer norm over each of `groups` groups of channels; its factor is stored as the difference from 1.

    Weight decay thus draws the factor to 1.
    """

    def __init__(self, channels: int, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups
        self.weight, self.bias = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x_NLD: Tensor) -> Tensor:
        x = x_NLD.unflatten(-1, (self.groups, -1))
        return torch.addcmul(self.bias, F.layer_norm(x, x.shape[-1:]).flatten(-2), 1 + self.weight)


class BiMLSTM(nn.Module):
    """x → Linear[forward, backward], each direction x + mLSTM block(LayerNorm(x)); then 2C → C."""

    def __init__(self, channels: int, heads: int, *, d_conv: int = 4, expand: int = 4) -> None:
        super().__init__()
        self.directions = nn.ModuleList(
            MLSTMBlock(channels, heads, d_conv=d_conv, expand=expand) for _ in range(2)
        )
        self.merge = nn.Linear(2 * channels, channels)

    def forward(self, x_BTFC: Tensor, axis: SequenceAxis) -> Tensor:
        rows = x_BTFC.transpose(1, 2) if axis is SequenceAxis.TIME else x_BTFC
        x_NLC = rows.flatten(0, 1)
        forward, backward = self.directions
        both = torch.cat((forward(x_NLC), backward(x_NLC.flip(1)).flip(1)), dim=-1)
        y = self.merge(both).unflatten(0, rows.shape[:2])
        return y.transpose(1, 2) if axis is SequenceAxis.TIME else y
