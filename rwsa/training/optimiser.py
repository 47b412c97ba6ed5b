"""AdamW for generator and discriminator: learning-rate schedule, update, clipping and saved state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from rwsa.config import config
from rwsa.errors import InputError


@config
class OptimiserConfig:
    """AdamW for generator and discriminator alike.

    Attributes:
        learning_rate: at the end of the warm-up.
        schedule: `exponential` multiplies by `decay_per_epoch` after each epoch (the paper);
            `cosine` falls to zero over `max_steps`.
        warmup_steps: steps of linear warm-up from zero.
        max_gradient_norm: gradients are clipped to this norm; default: no clipping (the paper).
    """

    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    schedule: Literal["exponential", "cosine"] = "exponential"
    decay_per_epoch: Annotated[float, Field(gt=0, le=1)] = 0.99
    warmup_steps: Annotated[int, Field(ge=0, le=10**12)] = 0
    max_gradient_norm: Annotated[float, Field(gt=0)] | None = None


def learning_rate(config: OptimiserConfig, step: int, *, epoch: int, max_steps: int) -> float:
    """The learning rate of a step: a pure function, so a checkpoint stores no scheduler."""
    rate = config.learning_rate * min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * min(step / max_steps, 1.0)))
    return rate * config.decay_per_epoch**epoch


def adamw(model: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW over all parameters of a model; on a GPU in one kernel, which never waits for the device."""
    parameters = list(model.parameters())
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True if _has_fused(parameters) else None,
    )


def _has_fused(parameters: Sequence[Tensor]) -> bool:
    return all(p.is_cuda for p in parameters)


def update(optimiser: torch.optim.Optimizer, loss: Tensor, max_norm: float | None) -> Tensor:
    """Backward pass and one optimiser step; returns the gradient norm before clipping."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = clip(optimiser, max_norm)
    optimiser.step()
    return norm


def clip(optimiser: torch.optim.Optimizer, max_norm: float | None) -> Tensor:
    """Clip gradients to `max_norm`, if set; returns their norm before clipping."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    if max_norm is None:
        return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return nn.utils.clip_grad_norm_(parameters, max_norm)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state as flat tensors, `INDEX.step`, `INDEX.exp_avg` and `INDEX.exp_avg_sq`."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{key}": tensor for index, slots in state.items() for key, tensor in slots.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], *, where: str) -> None:
    """Load what `optimiser_tensors` returned.

    Raises:
        InputError: a tensor is missing, unexpected or of the wrong shape.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    expected = {
        f"{i}.{key}": torch.Size() if key == "step" else parameter.shape
        for i, parameter in enumerate(parameters)
        for key in ("step", "exp_avg", "exp_avg_sq")
    }
    wrong = sorted(tensors.keys() ^ expected.keys())
    if wrong:
        raise InputError(f"{where}: does not fit; missing or left over: {', '.join(wrong)}")
    misshapen = [name for name, shape in expected.items() if tensors[name].shape != shape]
    if misshapen:
        raise InputError(f"{where}: does not fit; of another shape: {', '.join(misshapen)}")
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
