"""RWSA-MambaUNet (arXiv 2510.01958): a U-Net of Mamba and attention blocks with resolution-wise sharing.

Legend: B batch, C channels, T frames, F frequency bins.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rwsa.kernels.layout import SequenceAxis
from rwsa.models.attention import AxialAttention, BlendedAttention
from rwsa.models.config import ModelConfig
from rwsa.models.dropout import ClipGenerators, clip_generators
from rwsa.models.layers import (
    DenseEncoder,
    Downsample,
    MagnitudeDecoder,
    PatchEmbed,
    PhaseDecoder,
    Upsample,
)
from rwsa.models.mixers import Mixer, build_mixer, mix_along

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


class AxialBlock(nn.Module):
    """Along time, then along frequency: x + MHA(LN(x)), x + mixer(x).

    Its mixers are called `time_MIXER` and `frequency_MIXER`, such as `time_mamba`.
    """

    def __init__(self, channels: int, heads: int, config: ModelConfig, attentions: AttentionPair) -> None:
        super().__init__()
        self.time_attention, self.frequency_attention = attentions
        self.mixer = config.mixer
        for axis in ("time", "frequency"):
            self.add_module(f"{axis}_{self.mixer}", build_mixer(channels, heads, config))

    @property
    def mixers(self) -> tuple[Mixer | None, Mixer | None]:
        """Along time and along frequency; None for the mixer `none`."""
        return getattr(self, f"time_{self.mixer}"), getattr(self, f"frequency_{self.mixer}")

    def forward(self, x_BTFC: Tensor, dropout: ClipGenerators | None = None) -> Tensor:
        x, (along_time, along_frequency) = x_BTFC, self.mixers
        for axis, attention, mixer in (
            (SequenceAxis.TIME, self.time_attention, along_time),
            (SequenceAxis.FREQUENCY, self.frequency_attention, along_frequency),
        ):
            if attention is not None:
                x = x + attention(x, axis)
            if mixer is not None:
                x = mix_along(axis, mixer, x, dropout)
        return x


class Stage(nn.Module):
    """x + blocks(patch embedding(x)): one level of the encoder or the decoder, or the middle."""

    def __init__(
        self, channels: int, heads: int, config: ModelConfig, attentions: list[AttentionPair]
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(channels)
        self.blocks = nn.ModuleList(AxialBlock(channels, heads, config, pair) for pair in attentions)

    def forward(self, x_BCTF: Tensor, dropout: ClipGenerators | None = None) -> Tensor:
        x_BTFC = self.patch_embed(x_BCTF).permute(0, 2, 3, 1)
        for block in self.blocks:
            x_BTFC = block(x_BTFC, dropout)
        return x_BCTF + x_BTFC.permute(0, 3, 1, 2)


class Refinement(nn.Module):
    """A stage without attention, then a 3×3 convolution, added to the encoder's output."""

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.stage = Stage(channels, config.heads, config, [(None, None)] * config.blocks)
        self.out = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x_BCTF: Tensor, encoded_BCTF: Tensor, dropout: ClipGenerators | None = None) -> Tensor:
        return self.out(self.stage(x_BCTF, dropout)) + encoded_BCTF


class RWSAMambaUNet(nn.Module):
    """RWSA-MambaUNet: from noisy to enhanced compressed magnitude and phase."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        channels, widths = config.channels, [config.channels * level for level in range(1, config.depth + 1)]
        heads = config.heads
        shared_levels = [stage_attentions(width, heads, config) for width in widths[:-1]]
        self.encoder = DenseEncoder(channels)
        self.down_stages = nn.ModuleList(self._stages(widths, shared_levels))
        self.downsamples = nn.ModuleList(map(Downsample, widths, widths[1:]))
        middle = stage_attentions(widths[-1], config.middle_heads, config)
        self.middle = Stage(widths[-1], config.middle_heads, config, middle)
        self.upsamples = nn.ModuleList(map(Upsample, widths[1:], widths))
        self.merges = nn.ModuleList(nn.Conv2d(2 * width, width, 1, bias=False) for width in widths[:-1])
        up_levels = shared_levels
        if config.sharing != "resolution":
            up_levels = [stage_attentions(width, heads, config) for width in widths[:-1]]
        if config.sharing == "blend":
            up_levels = list(map(blended, shared_levels, up_levels))
        self.up_stages = nn.ModuleList(self._stages(widths, up_levels))
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

    def _stages(self, widths: list[int], levels: list[list[AttentionPair]]) -> Iterator[Stage]:
        for width, attentions in zip(widths, levels, strict=False):  # the middle has no level
            yield Stage(width, self.config.heads, self.config, attentions)

    def forward(
        self, mag_BFT: Tensor, pha_BFT: Tensor, dropout_seeds_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Enhance a compressed spectrum.

        Args:
            mag_BFT: compressed magnitude of the noisy speech, F as in `config.spectral`, any T.
            pha_BFT: its phase in radians.
            dropout_seeds_B: seeds of every clip's dropout; None for no dropout.

        Returns:
            The enhanced compressed magnitude and phase, both `[B, F, T]`.
        """
        frames, dropout = mag_BFT.shape[-1], clip_generators(dropout_seeds_B, mag_BFT.device)
        x = torch.stack((mag_BFT, pha_BFT), dim=1).transpose(2, 3)
        x = F.pad(x, (0, 0, 0, -frames % 2 ** (self.config.depth - 1)))
        encoded = self.encoder(x.contiguous(memory_format=torch.channels_last))
        decoded = self._unet(encoded, dropout)
        mask = self.magnitude_decoder(self.magnitude_refinement(decoded, encoded, dropout))
        pha = self.phase_decoder(self.phase_refinement(decoded, encoded, dropout))[..., :frames]
        if self.config.phase == "residual":
            pha = pha_BFT + pha
        return mag_BFT * mask[..., :frames], pha

    def _unet(self, x_BCTF: Tensor, dropout: ClipGenerators | None) -> Tensor:
        skips = []
        for stage, downsample in zip(self.down_stages, self.downsamples, strict=True):
            skips.append(stage(x_BCTF, dropout))
            x_BCTF = downsample(skips[-1])
        x_BCTF = self.middle(x_BCTF, dropout)
        ups = zip(self.upsamples, self.merges, self.up_stages, skips, strict=True)
        for upsample, merge, stage, skip in reversed(list(ups)):
            x_BCTF = stage(merge(torch.cat((upsample(x_BCTF), skip), dim=1)), dropout)
        return x_BCTF
