"""Random tensors and parameter counts for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def torch_attention(ours: Any, *, batch_first: bool) -> nn.MultiheadAttention:
    """torch's own attention with the weights of ours (`heads`, `qkv`, `out`), whose biases become random."""
    theirs = nn.MultiheadAttention(ours.out.in_features, ours.heads, batch_first=batch_first)
    nn.init.normal_(ours.qkv.bias)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    return theirs
