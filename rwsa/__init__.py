"""RWSA-MambaUNet speech enhancement (arXiv 2510.01958): model, data, training loop and metrics.

>>> import rwsa
>>> model = rwsa.load_model()  # weights that come with the package; or a file's name
>>> clean = rwsa.enhance(noisy, sample_rate_hz, model)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rwsa.enhancement import enhance
    from rwsa.models import load_model

__all__ = ["enhance", "load_model"]


def __getattr__(name: str) -> Any:
    # Lazy: scoring and mixing workers import this package without torch.
    if name == "enhance":
        from rwsa.enhancement import enhance

        return enhance
    if name == "load_model":
        from rwsa.models import load_model

        return load_model
    raise AttributeError(f"module 'rwsa' has no attribute '{name}'")
