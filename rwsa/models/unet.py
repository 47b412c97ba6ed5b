"""RWSA-MambaUNet (arXiv 2510.01958): a U-Net of Mamba and attention blocks with resolution-wise sharing.

Legend: B batch, C channels, T frames, F frequency bins.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rwsa.kernels.layout import SequenceAxis
from rwsa.models.attention import AxialAttention, BlendedAttention
from rwsa.models.config import ModelConfig
from rwsa.models.layers import (
    DenseEncoder,
    Downsample,
    MagnitudeDecoder,
    PatchEmbed,
    PhaseDecoder,
    Upsample,
)
from rwsa.models.mamba import BiMamba

# The attentions of one block along time and frequency; a shared one occurs twice.
Attention = AxialAttention | BlendedAttention
AttentionPair = tuple[Attention | None, Attention | None]


def stage_attentions(channels: int, heads: int, config: ModelConfig) -> list[AttentionPair]:
    """The attentions of the blocks of one stage, by `config.sharing`."""
    pairs: list[AttentionPair] = []
    for _ in range(config.blocks):
        if config.sharing == "off":
            pairs.append((None, None))
            continue
        along_time = AxialAttention(channels, heads)
        own = config.sharing == "none"
        pairs.append((along_time, AxialAttention(channels, heads) if own else along_time))
    return pairs


def blended(shared: list[AttentionPair], own: list[AttentionPair]) -> list[AttentionPair]:
    """The attentions of a decoder stage that blend those of the encoder stage with their own."""
    pairs: list[AttentionPair] = []
    for (of_encoder, _), (of_decoder, _) in zip(shared, own, strict=True):
        assert isinstance(of_encoder, AxialAttention)
        assert isinstance(of_decoder, AxialAttention)
        attention = BlendedAttention(of_encoder, of_decoder)
        pairs.append((attention, attention))
    return pairs


class MambAttentionBlock(nn.Module):
    """Along time, then along frequency: x + MHA(LN(x)), x + BiMamba(x)."""

    def __init__(self, channels: int, config: ModelConfig, attentions: AttentionPair) -> None:
        super().__init__()
        sizes = {"d_state": config.d_state, "d_conv": config.d_conv, "expand": config.expand}
        self.time_attention, self.frequency_attention = attentions
        self.time_mamba = BiMamba(channels, **sizes)
        self.frequency_mamba = BiMamba(channels, **sizes)

    def forward(self, x_BTFC: Tensor) -> Tensor:
        x = x_BTFC
        for axis, attention, mamba in (
            (SequenceAxis.TIME, self.time_attention, self.time_mamba),
            (SequenceAxis.FREQUENCY, self.frequency_attention, self.frequency_mamba),
        ):
            if attention is not None:
                x = x + attention(x, axis)
            x = x + mamba(x, axis)
        return x


class Stage(nn.Module):
    """x + blocks(patch embedding(x)): one level of the encoder or the decoder, or the middle."""

    def __init__(self, channels: int, config: ModelConfig, attentions: list[AttentionPair]) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(channels)
        self.blocks = nn.ModuleList(MambAttentionBlock(channels, config, pair) for pair in attentions)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        x_BTFC = self.patch_embed(x_BCTF).permute(0, 2, 3, 1)
        for block in self.blocks:
            x_BTFC = block(x_BTFC)
        return x_BCTF + x_BTFC.permute(0, 3, 1, 2)


class Refinement(nn.Module):
    """A stage without attention, then a 3×3 convolution, added to the encoder's output."""

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.stage = Stage(channels, config, [(None, None)] * config.blocks)
        self.out = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x_BCTF: Tensor, encoded_BCTF: Tensor) -> Tensor:
        return self.out(self.stage(x_BCTF)) + encoded_BCTF


class RWSAMambaUNet(nn.Module):
    """RWSA-MambaUNet: from noisy to enhanced compressed magnitude and phase."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        channels, widths = config.channels, [config.channels * level for level in range(1, config.depth + 1)]
        shared_levels = [stage_attentions(width, config.heads, config) for width in widths[:-1]]
        self.encoder = DenseEncoder(channels)
        self.down_stages = nn.ModuleList(map(self._stage, widths, shared_levels))
        self.downsamples = nn.ModuleList(map(Downsample, widths, widths[1:]))
        self.middle = self._stage(widths[-1], stage_attentions(widths[-1], config.middle_heads, config))
        self.upsamples = nn.ModuleList(map(Upsample, widths[1:], widths))
        self.merges = nn.ModuleList(nn.Conv2d(2 * width, width, 1, bias=False) for width in widths[:-1])
        up_levels = shared_levels
        if config.sharing != "resolution":
            up_levels = [stage_attentions(width, config.heads, config) for width in widths[:-1]]
        if config.sharing == "blend":
            up_levels = list(map(blended, shared_levels, up_levels))
        self.up_stages = nn.ModuleList(map(self._stage, widths, up_levels))
        self.magnitude_refinement = Refinement(channels, config)
        self.phase_refinement = Refinement(channels, config)
        self.magnitude_decoder = MagnitudeDecoder(channels, config.spectral.bins)
        self.phase_decoder = PhaseDecoder(channels, from_zero=config.phase == "residual")

    def shared_shares(self) -> dict[str, Tensor]:
        """With `blend`, the mean share of the encoder's attention (0 to 1) by decoder level: `level_1`, ….

        Empty for other values of `config.sharing`.
        """
        shares: dict[str, Tensor] = {}
        for level, stage in enumerate(self.up_stages, 1):
            mixes = [module for module in stage.modules() if isinstance(module, BlendedAttention)]
            each = [mix.shared_weight for mix in mixes]
            if each:
                shares[f"level_{level}"] = torch.stack(each).mean()
        return shares

    def _stage(self, channels: int, attentions: list[AttentionPair]) -> Stage:
        return Stage(channels, self.config, attentions)

    def forward(self, mag_BFT: Tensor, pha_BFT: Tensor) -> tuple[Tensor, Tensor]:
        """Enhance a compressed spectrum.

        Args:
            mag_BFT: compressed magnitude of the noisy speech, F as in `config.spectral`, any T.
            pha_BFT: its phase in radians.

        Returns:
            The enhanced compressed magnitude and phase, both `[B, F, T]`.
        """
        frames = mag_BFT.shape[-1]
        x = torch.stack((mag_BFT, pha_BFT), dim=1).transpose(2, 3)
        x = F.pad(x, (0, 0, 0, -frames % 2 ** (self.config.depth - 1)))
        encoded = self.encoder(x.contiguous(memory_format=torch.channels_last))
        decoded = self._unet(encoded)
        mask = self.magnitude_decoder(self.magnitude_refinement(decoded, encoded))
        pha = self.phase_decoder(self.phase_refinement(decoded, encoded))[..., :frames]
        if self.config.phase == "residual":
            pha = pha_BFT + pha
        return mag_BFT * mask[..., :frames], pha

    def _unet(self, x_BCTF: Tensor) -> Tensor:
        skips = []
        for stage, downsample in zip(self.down_stages, self.downsamples, strict=True):
            skips.append(stage(x_BCTF))
            x_BCTF = downsample(skips[-1])
        x_BCTF = self.middle(x_BCTF)
        ups = zip(self.upsamples, self.merges, self.up_stages, skips, strict=True)
        for upsample, merge, stage, skip in reversed(list(ups)):
            x_BCTF = stage(merge(torch.cat((upsample(x_BCTF), skip), dim=1)))
        return x_BCTF
