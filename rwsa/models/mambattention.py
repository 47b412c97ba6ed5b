"""MambAttention (arXiv 2507.00966), the paper's strongest baseline: the same blocks without the U-Net.

Legend: B batch, C channels, T frames, F frequency bins.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rwsa.models.config import ModelConfig
from rwsa.models.layers import DenseEncoder, MagnitudeDecoder, PhaseDecoder
from rwsa.models.unet import MambAttentionBlock, stage_attentions


def transposed_upsample(channels: int) -> nn.ConvTranspose2d:
    """F to 2F + 1, the inverse of the encoder's downsampling of an odd number of bins."""
    return nn.ConvTranspose2d(channels, channels, (1, 3), stride=(1, 2))


class MambAttention(nn.Module):
    """MambAttention: from noisy to enhanced compressed magnitude and phase."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        channels, attentions = config.channels, stage_attentions(config.channels, config.heads, config)
        self.encoder = DenseEncoder(channels, padding=0)
        self.blocks = nn.ModuleList(MambAttentionBlock(channels, config, pair) for pair in attentions)
        self.magnitude_decoder = MagnitudeDecoder(
            channels, config.spectral.bins, upsample=transposed_upsample
        )
        self.phase_decoder = PhaseDecoder(
            channels, from_zero=config.phase == "residual", upsample=transposed_upsample
        )

    def forward(self, mag_BFT: Tensor, pha_BFT: Tensor) -> tuple[Tensor, Tensor]:
        """Enhance a compressed spectrum.

        Args:
            mag_BFT: compressed magnitude of the noisy speech, F as in `config.spectral`, any T.
            pha_BFT: its phase in radians.

        Returns:
            The enhanced compressed magnitude and phase, both `[B, F, T]`.
        """
        x_BCTF = torch.stack((mag_BFT, pha_BFT), dim=1).transpose(2, 3)
        x_BTFC = self.encoder(x_BCTF.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
        for block in self.blocks:
            x_BTFC = block(x_BTFC)
        x_BCTF = x_BTFC.permute(0, 3, 1, 2)
        pha = self.phase_decoder(x_BCTF)
        if self.config.phase == "residual":
            pha = pha_BFT + pha
        return mag_BFT * self.magnitude_decoder(x_BCTF), pha
