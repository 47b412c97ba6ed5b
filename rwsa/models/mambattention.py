"""The architecture of the paper's baselines: the same blocks without the U-Net.

With attention and Mamba it is MambAttention (arXiv 2507.00966). Without attention it is, by mixer, SEMamba
(arXiv 2405.06573), MP-SENet's Conformer version (arXiv 2305.13686), xLSTM-SENet (arXiv 2501.06146), and
LSTM-SENet, of which no code was published: a reconstruction from its counts of parameters and operations.

Legend: B batch, C channels, T frames, F frequency bins.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rwsa.models.config import ModelConfig
from rwsa.models.dropout import clip_generators
from rwsa.models.layers import DenseEncoder, MagnitudeDecoder, PhaseDecoder
from rwsa.models.unet import AxialBlock, stage_attentions


def transposed_upsample(channels: int) -> nn.ConvTranspose2d:
    """F to 2F + 1, the inverse of the encoder's downsampling of an odd number of bins."""
    return nn.ConvTranspose2d(channels, channels, (1, 3), stride=(1, 2))


class MambAttention(nn.Module):
    """Encoder, blocks and two decoders: from noisy to enhanced compressed magnitude and phase."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        channels, attentions = config.channels, stage_attentions(config.channels, config.heads, config)
        self.encoder = DenseEncoder(channels, padding=0)
        self.blocks = nn.ModuleList(AxialBlock(channels, config.heads, config, pair) for pair in attentions)
        self.magnitude_decoder = MagnitudeDecoder(
            channels, config.spectral.bins, upsample=transposed_upsample
        )
        self.phase_decoder = PhaseDecoder(
            channels, from_zero=config.phase == "residual", upsample=transposed_upsample
        )

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
        x_BCTF = torch.stack((mag_BFT, pha_BFT), dim=1).transpose(2, 3)
        x_BTFC = self.encoder(x_BCTF.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
        dropout = clip_generators(dropout_seeds_B, mag_BFT.device)
        for block in self.blocks:
            x_BTFC = block(x_BTFC, dropout)
        x_BCTF = x_BTFC.permute(0, 3, 1, 2)
        pha = self.phase_decoder(x_BCTF)
        if self.config.phase == "residual":
            pha = pha_BFT + pha
        return mag_BFT * self.magnitude_decoder(x_BCTF), pha
