"""Models: `config` (sizes), `build`, `weights` (load and save), `cost`; the networks and their layers."""

from rwsa.models.build import Network, build_model
from rwsa.models.config import SIZES, ModelConfig
from rwsa.models.mambattention import MambAttention
from rwsa.models.unet import RWSAMambaUNet
from rwsa.models.weights import load_model, save_model, weights_file

__all__ = [
    "SIZES",
    "MambAttention",
    "ModelConfig",
    "Network",
    "RWSAMambaUNet",
    "build_model",
    "load_model",
    "save_model",
    "weights_file",
]
