"""Among the ranks of a training run; alone, each of these is the identity."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel


def world_size() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def distributed(model: nn.Module) -> nn.Module:
    """The model wrapped for DDP."""
    return DistributedDataParallel(model, gradient_as_bucket_view=True) if dist.is_initialized() else model


def concatenated(tensor: Tensor) -> Tensor:
    """The tensors of all ranks, equal in shape, one after the other; on every rank."""
    if not dist.is_initialized():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def summed(values: Tensor, device: torch.device) -> Tensor:
    """The sum over all ranks; `device` is where they can talk to each other."""
    if dist.is_initialized():
        values = values.to(device, copy=True)  # all_reduce writes into it
        dist.all_reduce(values)
    return values.cpu()


def means(values: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean over all ranks of every scalar."""
    stacked = torch.stack([value.float() for value in values.values()])
    if dist.is_initialized():
        dist.all_reduce(stacked)
        stacked /= dist.get_world_size()
    return dict(zip(values, stacked.tolist(), strict=True))


def any_of(*flags: bool, device: torch.device) -> tuple[bool, ...]:
    """For each flag, whether it is true on some rank."""
    return tuple((summed(torch.tensor(flags, dtype=torch.float32), device) > 0).tolist())


def gathered(text: str) -> list[str]:
    """The texts of all ranks, in their order; on every rank."""
    if not dist.is_initialized():
        return [text]
    found: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(found, text)
    return found


def same_everywhere(digits: str, device: torch.device) -> bool:
    """Whether all ranks have the same number of up to twelve hexadecimal digits."""
    mine = torch.tensor([int(digits, 16)], dtype=torch.int64, device=device)
    return bool((concatenated(mine) == mine).all())
