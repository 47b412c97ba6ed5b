"""Convolutional parts of the U-Net: dense block, patch embedding, resampling, decoders.

Tensors are `[B, C, T, F]` in `torch.channels_last`, so that sequence blocks between convolutions view them as
`[B, T, F, C]` without a copy.

Legend: B batch, C channels, T frames, F frequency bins.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rwsa.kernels.deformable import deform_conv
from rwsa.kernels.dense import DenseLayer, dense_block, has_dense_kernel
from rwsa.kernels.dispatch import in_float32


def norm_act(channels: int) -> tuple[nn.Module, nn.Module]:
    """Affine instance norm and a PReLU with one slope per channel."""
    return nn.InstanceNorm2d(channels, affine=True), nn.PReLU(channels)


def _dense_layer(layer: nn.Module) -> DenseLayer:
    return DenseLayer(*(parameter for part in layer.children() for parameter in part.parameters()))


class DenseBlock(nn.Module):
    """Four dilated 3×3 convolutions (1, 2, 4, 8 in time), each fed by all earlier outputs: [new, old]."""

    def __init__(self, channels: int, layers: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels * (i + 1), channels, 3, dilation=(2**i, 1), padding=(2**i, 1)),
                *norm_act(channels),
            )
            for i in range(layers)
        )

    def forward(self, x_BCTF: Tensor) -> Tensor:
        if has_dense_kernel(x_BCTF):
            return dense_block(x_BCTF, [_dense_layer(layer) for layer in self.layers])
        features = x_BCTF
        for layer in list(self.layers)[:-1]:
            features = torch.cat((layer(features), features), dim=1)
        return self.layers[-1](features)


class DenseEncoder(nn.Module):
    """Magnitude and phase to features at half the frequency resolution, `padding` bins at both ends."""

    def __init__(self, channels: int, inputs: int = 2, *, padding: int = 1) -> None:
        super().__init__()
        self.widen = nn.Sequential(nn.Conv2d(inputs, channels, 1), *norm_act(channels))
        self.dense = DenseBlock(channels)
        self.halve = nn.Sequential(
            nn.Conv2d(channels, channels, (1, 3), stride=(1, 2), padding=(0, padding)), *norm_act(channels)
        )

    def forward(self, x_BCTF: Tensor) -> Tensor:
        return self.halve(self.dense(self.widen(x_BCTF)))


class DeformableConv(nn.Module):
    """Depthwise deformable 3×3 convolution; offsets are an input, padding is zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x_BCTF: Tensor, offset_BKTF: Tensor) -> Tensor:
        return deform_conv(x_BCTF, offset_BKTF, self.weight.flatten(1))


class PatchEmbed(nn.Module):
    """Deformable depthwise convolution with learned offsets within ±1, a 1×1 convolution, Hardswish."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offset = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, 18, 1, bias=False),
        )
        self.deform = DeformableConv(channels)
        self.mix = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        offset = in_float32(self.offset, x_BCTF).clamp(-1, 1)
        return F.hardswish(self.mix(self.deform(x_BCTF, offset)))


class Downsample(nn.Module):
    """Halve T and F: depthwise 3×3, pointwise to a quarter of the new width, pixel-unshuffle."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, out_channels // 4, 1, bias=False),
            nn.PixelUnshuffle(2),
        )

    def forward(self, x_BCTF: Tensor) -> Tensor:
        return self.body(x_BCTF)


class Upsample(nn.Module):
    """Double T and F: depthwise 3×3, pointwise to four times the new width, pixel-shuffle."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, out_channels * 4, 1, bias=False),
            nn.PixelShuffle(2),
        )

    def forward(self, x_BCTF: Tensor) -> Tensor:
        return self.body(x_BCTF)


class FrequencyUpsample(nn.Module):
    """Double F: 1×1 convolution to 4C, pixel-shuffle, depthwise (1, 3) with stride (2, 1).

    The stride drops every odd frame of the shuffle, so half of the 1×1 convolution's channels do not affect
    the output. They are not computed, but their weights are kept, since published checkpoints have them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.expand = nn.Conv2d(channels, channels * 4, 1, bias=False)
        self.smooth = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1), groups=channels, bias=False)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        even = self.expand.weight.unflatten(0, (self.channels, 2, 2))[:, 0].flatten(0, 1)
        x = F.conv2d(x_BCTF, even).unflatten(1, (self.channels, 2))
        return self.smooth(x.permute(0, 1, 3, 4, 2).flatten(3))


class MagnitudeDecoder(nn.Module):
    """Features to a mask on the compressed magnitude, by a learnable sigmoid per frequency (β = 2)."""

    def __init__(
        self,
        channels: int,
        bins: int,
        beta: float = 2.0,
        *,
        upsample: Callable[[int], nn.Module] = FrequencyUpsample,
    ) -> None:
        super().__init__()
        self.dense = DenseBlock(channels)
        self.upsample = upsample(channels)
        self.to_mask = nn.Sequential(nn.Conv2d(channels, 1, 1), *norm_act(1), nn.Conv2d(1, 1, 1))
        self.slope = nn.Parameter(torch.ones(bins, 1))
        self.beta = beta

    def forward(self, x_BCTF: Tensor) -> Tensor:
        """Returns mask_BFT, between 0 and β."""
        logits_BCTF = in_float32(self.to_mask, self.upsample(self.dense(x_BCTF)))
        logits_BFT = logits_BCTF.squeeze(1).transpose(1, 2)
        return self.beta * torch.sigmoid(self.slope * logits_BFT)


class PhaseDecoder(nn.Module):
    """Features to a phase, as the angle of two 1×1 convolutions; with `from_zero` it is initially 0."""

    def __init__(
        self,
        channels: int,
        *,
        from_zero: bool = False,
        upsample: Callable[[int], nn.Module] = FrequencyUpsample,
    ) -> None:
        super().__init__()
        self.dense = DenseBlock(channels)
        self.upsample = upsample(channels)
        self.norm_act = nn.Sequential(*norm_act(channels))
        self.real = nn.Conv2d(channels, 1, 1)
        self.imaginary = nn.Conv2d(channels, 1, 1)
        if from_zero:
            for part, angle_0 in ((self.real, 1.0), (self.imaginary, 0.0)):
                nn.init.zeros_(part.weight)
                part.bias = nn.Parameter(torch.full((1,), angle_0))

    def forward(self, x_BCTF: Tensor) -> Tensor:
        """Returns pha_BFT in radians."""
        x = self.norm_act(self.upsample(self.dense(x_BCTF)))
        return in_float32(self._angle, x).squeeze(1).transpose(1, 2)

    def _angle(self, x_BCTF: Tensor) -> Tensor:
        return torch.atan2(self.imaginary(x_BCTF), self.real(x_BCTF))
