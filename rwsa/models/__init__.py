"""Networks and their weights."""

from rwsa.models.config import SIZES, ModelConfig
from rwsa.models.unet import RWSAMambaUNet
from rwsa.models.weights import build_model, load_model, save_model

__all__ = ["SIZES", "ModelConfig", "RWSAMambaUNet", "build_model", "load_model", "save_model"]
