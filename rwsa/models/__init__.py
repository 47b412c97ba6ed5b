"""Networks and their weights."""

from rwsa.models.config import SIZES, ModelConfig
from rwsa.models.mambattention import MambAttention
from rwsa.models.unet import RWSAMambaUNet
from rwsa.models.weights import Network, build_model, load_model, save_model, weights_file

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
