"""The mixer of a block: the module that runs along time or frequency, by the configuration's key `mixer`.

To add one, write its module, name it in `rwsa.models.config.Mixer`, and build it here.
"""

from __future__ import annotations

from torch import Tensor

from rwsa.kernels.layout import SequenceAxis
from rwsa.models.config import ModelConfig
from rwsa.models.conformer import Conformer
from rwsa.models.dropout import ClipGenerators
from rwsa.models.lstm import BiLSTM
from rwsa.models.mamba import BiMamba
from rwsa.models.mlstm import BiMLSTM

Mixer = BiMamba | Conformer | BiMLSTM | BiLSTM


def build_mixer(channels: int, heads: int, config: ModelConfig) -> Mixer | None:
    """The mixer of a stage of this width; None for `none`."""
    match config.mixer:
        case "mamba":
            return BiMamba(channels, d_state=config.d_state, d_conv=config.d_conv, expand=int(config.expand))
        case "conformer":
            across = config.conformer_attention == "batch"
            return Conformer(channels, heads, expand=config.expand, across_batch=across)
        case "mlstm":
            return BiMLSTM(channels, heads, d_conv=config.d_conv, expand=int(config.expand))
        case "lstm":
            return BiLSTM(channels, expand=config.expand)
        case "none":
            return None


def mix_along(axis: SequenceAxis, mixer: Mixer, x_BTFC: Tensor, dropout: ClipGenerators | None) -> Tensor:
    """x + mixer(x), `[B, T, F, C]`; a BiMamba includes the residual, and only the Conformer has dropout."""
    if isinstance(mixer, BiMamba):
        return mixer(x_BTFC, axis)
    if isinstance(mixer, Conformer):
        return x_BTFC + mixer(x_BTFC, axis, dropout)
    return x_BTFC + mixer(x_BTFC, axis)
