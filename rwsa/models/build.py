"""Building a model from its configuration.

To add an architecture, write its module, name it in `rwsa.models.config.Architecture`, and build it here.
"""

from __future__ import annotations

import torch

from rwsa.models.config import ModelConfig, size
from rwsa.models.mambattention import MambAttention
from rwsa.models.unet import RWSAMambaUNet

# Any enhancement model: compressed magnitude and phase in and out, `[B, F, T]`.
Network = RWSAMambaUNet | MambAttention


def build_model(config: ModelConfig | str, *, seed: int = 0) -> Network:
    """An untrained model; equal seeds give equal weights, and the global generator is not used.

    Args:
        config: its configuration, or a name in `SIZES`.
        seed: of the random weights.

    Raises:
        InputError: no size has this name.
    """
    config = size(config) if isinstance(config, str) else config
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not those of GPUs
        match config.architecture:
            case "rwsa":
                return RWSAMambaUNet(config)
            case "mambattention":
                return MambAttention(config)
