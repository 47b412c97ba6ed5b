"""Bidirectional Mamba-1 along one axis of `[B, T, F, C]`, scanned where it lies.

Legend: B batch, T frames, F frequency bins, C channels, D inner channels (expand · C), N states.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rwsa.models.attention import Axis
from rwsa.scan import selective_scan


class MambaMixer(nn.Module):
    """Mamba-1 (Gu & Dao 2023, section 3.4) in one direction along one axis.

    The backward direction flips nothing: its convolution looks ahead and its scan runs in reverse.
    """

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

    def _init_step_size(self, least: float = 1e-3, most: float = 0.1) -> None:
        """Start with steps log-uniform in [least, most], as Mamba does."""
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        delta = torch.exp(torch.rand(self.inner) * math.log(most / least) + math.log(least))
        with torch.no_grad():
            self.dt_proj.bias.copy_(delta + torch.log(-torch.expm1(-delta)))

    def forward(self, x_BTFC: Tensor, axis: Axis) -> Tensor:
        # Slices of the weight give x and z, and step, B and C, as tensors of their own: no copies.
        x_weight, z_weight = self.in_proj.weight.split(self.inner)
        x, z = F.linear(x_BTFC, x_weight), F.linear(x_BTFC, z_weight)
        u = F.silu(self._causal_conv(x, axis))
        dt_weight, B_weight, C_weight = self.x_proj.weight.split([self.rank, self.d_state, self.d_state])
        delta = F.softplus(self.dt_proj(F.linear(u, dt_weight)))
        sequences = (u, delta, F.linear(u, B_weight), F.linear(u, C_weight), z)
        if axis is Axis.TIME:
            sequences = tuple(s.transpose(1, 2) for s in sequences)  # type: ignore[assignment]
        u, delta, B, C, z = sequences
        y = selective_scan(u, delta, -torch.exp(self.A_log.float()), B, C, self.D, z, reverse=self.reverse)
        return self.out_proj(y.transpose(1, 2) if axis is Axis.TIME else y)

    def _causal_conv(self, x_BTFD: Tensor, axis: Axis) -> Tensor:
        """The depthwise convolution along `axis`: over the past, or over the future in reverse."""
        taps = self.conv.kernel_size[0]
        kernel = self.conv.weight.flip(-1) if self.reverse else self.conv.weight
        along = (taps, 1) if axis is Axis.TIME else (1, taps)
        padding = (taps - 1, 0) if axis is Axis.TIME else (0, taps - 1)
        y_BDTF = F.conv2d(
            x_BTFD.permute(0, 3, 1, 2),
            kernel.unflatten(-1, along),
            self.conv.bias,
            padding=padding,
            groups=self.inner,
        )
        length = x_BTFD.shape[axis]
        return y_BDTF.permute(0, 2, 3, 1).narrow(axis, taps - 1 if self.reverse else 0, length)


class BiMamba(nn.Module):
    """x → Linear[forward, backward], each direction Mamba(RMSNorm(x)) + x; 2C → C at the end."""

    def __init__(self, channels: int, *, d_state: int = 16, d_conv: int = 4, expand: int = 4) -> None:
        super().__init__()
        sizes = {"d_state": d_state, "d_conv": d_conv, "expand": expand}
        self.norms = nn.ModuleList(nn.RMSNorm(channels, eps=1e-5) for _ in range(2))
        self.mixers = nn.ModuleList(MambaMixer(channels, reverse=r, **sizes) for r in (False, True))
        self.merge = nn.Linear(2 * channels, channels)

    def forward(self, x_BTFC: Tensor, axis: Axis) -> Tensor:
        directions = [
            mixer(norm(x_BTFC), axis) + x_BTFC for norm, mixer in zip(self.norms, self.mixers, strict=True)
        ]
        return self.merge(torch.cat(directions, dim=-1))
