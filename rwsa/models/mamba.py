"""Bidirectional Mamba-1 along one axis of `[B, T, F, C]`.

Legend: B batch, T frames, F frequency bins, C channels, D inner channels (expand · C), N states.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rwsa.kernels.layout import SequenceAxis
from rwsa.kernels.mixer import NORM_EPSILON, MixerWeights, mix, mix_both


class MambaMixer(nn.Module):
    """Mamba-1 (Gu & Dao 2023, section 3.4) in one direction along one axis."""

    def __init__(
        self, channels: int, *, reverse: bool, d_state: int = 16, d_conv: int = 4, expand: int = 4
    ) -> None:
        super().__init__()
        inner, rank = expand * channels, math.ceil(channels / 16)
        self.inner, self.rank, self.d_state, self.reverse = inner, rank, d_state, reverse
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, d_conv, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1).float().log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, channels, bias=False)
        self._init_step_size()

    def _init_step_size(self, lowest: float = 1e-3, highest: float = 0.1) -> None:
        """Initialize step sizes log-uniformly in [lowest, highest], as Mamba does."""
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        delta = torch.exp(torch.rand(self.inner) * math.log(highest / lowest) + math.log(lowest))
        with torch.no_grad():
            self.dt_proj.bias.copy_(delta + torch.log(-torch.expm1(-delta)))

    def forward(self, x_BTFC: Tensor, norm: Tensor, axis: SequenceAxis) -> Tensor:
        """x + Mamba(RMSNorm(x)), where `norm` is the norm's weight."""
        return mix(x_BTFC, self.weights(norm), axis, reverse=self.reverse)

    def weights(self, norm: Tensor) -> MixerWeights:
        """The mixer's weights with those of its norm."""
        assert self.conv.bias is not None
        return MixerWeights(
            norm=norm,
            in_proj=self.in_proj.weight,
            conv=self.conv.weight,
            conv_bias=self.conv.bias,
            x_proj=self.x_proj.weight,
            dt_proj=self.dt_proj.weight,
            dt_bias=self.dt_proj.bias,
            A=-torch.exp(self.A_log.float()),
            D=self.D,
            out_proj=self.out_proj.weight,
        )


class BiMamba(nn.Module):
    """x + Linear[forward, backward], from 2C to C; each direction is x + Mamba(RMSNorm(x))."""

    def __init__(self, channels: int, *, d_state: int = 16, d_conv: int = 4, expand: int = 4) -> None:
        super().__init__()
        sizes = {"d_state": d_state, "d_conv": d_conv, "expand": expand}
        self.norms = nn.ModuleList(nn.RMSNorm(channels, eps=NORM_EPSILON) for _ in range(2))
        self.mixers = nn.ModuleList(MambaMixer(channels, reverse=r, **sizes) for r in (False, True))
        self.merge = nn.Linear(2 * channels, channels)

    def forward(self, x_BTFC: Tensor, axis: SequenceAxis) -> Tensor:
        forward, backward = zip(self.norms, self.mixers, strict=True)
        directions = self._weights(*forward), self._weights(*backward)
        return mix_both(x_BTFC, directions, self.merge.weight, self.merge.bias, axis)

    @staticmethod
    def _weights(norm: nn.Module, mixer: nn.Module) -> MixerWeights:
        assert isinstance(norm, nn.RMSNorm)
        assert isinstance(mixer, MambaMixer)
        return mixer.weights(norm.weight)
