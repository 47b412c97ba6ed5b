"""Collective operations over the ranks of a training run; with one rank each is the identity."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel


def world_size() -> int:
    """Number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def distributed(model: nn.Module) -> nn.Module:
    """The model wrapped in DDP."""
    return DistributedDataParallel(model, gradient_as_bucket_view=True) if dist.is_initialized() else model


def concatenated(tensor: Tensor) -> Tensor:
    """The tensors of all ranks, equal in shape, concatenated; on every rank."""
    if not dist.is_initialized():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def concatenated_on_first(tensor: Tensor) -> Tensor | None:
    """`concatenated` on rank 0 alone, which needs the memory for it; None on the others."""
    if not dist.is_initialized():
        return tensor
    if dist.get_rank() != 0:
        dist.gather(tensor.contiguous())
        return None
    whole = tensor.new_empty(dist.get_world_size() * len(tensor), *tensor.shape[1:])
    dist.gather(tensor.contiguous(), list(whole.split(len(tensor))))
    return whole


def added(values: Tensor) -> Tensor:
    """The sum over all ranks, on the device of `values`, which is that of the process group."""
    if dist.is_initialized():
        values = values.clone()  # all_reduce writes into it
        dist.all_reduce(values)
    return values


def summed(values: Tensor, device: torch.device) -> Tensor:
    """The sum over all ranks, on the CPU: waits for it; `device` is the one of the process group."""
    return added(values.to(device)).cpu() if dist.is_initialized() else values.cpu()


def means(values: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean of each scalar over all ranks."""
    stacked = torch.stack([value.float() for value in values.values()])
    if dist.is_initialized():
        dist.all_reduce(stacked)
        stacked /= dist.get_world_size()
    return dict(zip(values, stacked.tolist(), strict=True))


def any_of(*flags: Tensor) -> tuple[bool, ...]:
    """For each scalar flag, whether it is true on some rank; waits once, for all of them."""
    return tuple((added(torch.stack(flags).float()) > 0).tolist())


def gathered(text: str) -> list[str]:
    """The texts of all ranks, in rank order; on every rank."""
    if not dist.is_initialized():
        return [text]
    texts: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(texts, text)
    return texts


def same_everywhere(digits: str, device: torch.device) -> bool:
    """Whether all ranks have the same number of up to twelve hexadecimal digits."""
    own = torch.tensor([int(digits, 16)], dtype=torch.int64, device=device)
    return bool((concatenated(own) == own).all())
