"""Operators and bytes of a training step as a GPU runs it, counted on `meta` tensors: no GPU, no arithmetic.

    python -m tests.benchmarks.step_counts [--sizes xs m] [--batches 1 8] [--most 20]

A step is the generator's, in float32: forward, losses, backward; clipping and AdamW are few kernels on a GPU.
An operator that makes no view counts, with every tensor that it reads or writes once; the scan (our Triton
kernels) and attention (torch's fused kernels) count as one each way. `saved` is what the forward pass keeps
for gradients.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rwsa.kernels import scan
from rwsa.losses import LossWeights, spectral_losses, weighted_total
from rwsa.models import SIZES, build_model
from rwsa.stft import stft


@dataclass
class StepCounts:
    """Of one step: operators, bytes moved, bytes saved for gradients, bytes moved by operator."""

    operators: int = 0
    moved: int = 0
    saved: int = 0
    names: Counter[str] = field(default_factory=Counter)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["xs", "m"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--most", type=int, default=0, help="how many operators to list")
    arguments = parser.parse_args(argv)
    print("size  batch  operators   moved GB   saved GB")
    for size in arguments.sizes:
        for batch in arguments.batches:
            counts = count_step(size, batch)
            gigabytes = f"{counts.moved / 1e9:9.1f}  {counts.saved / 1e9:9.2f}"
            print(f"{size:5}  {batch:4}  {counts.operators:9,}  {gigabytes}")
            for name, moved in counts.names.most_common(arguments.most):
                print(f"    {moved / 1e9:6.1f} GB {name}")


def count_step(size: str, batch: int) -> StepCounts:
    """Count one step of `batch` segments of a named size."""
    config, meta = SIZES[size], torch.device("meta")
    model = build_model(config).to(meta)
    clean = torch.empty(batch, config.segment_samples, device=meta)
    counts, saved = StepCounts(), list[Tensor]()

    def save(x: Tensor) -> Tensor:
        saved.append(x)
        return x

    with (
        patch.object(scan, "resolve_backend", lambda *_: "triton"),
        patch.object(torch.nn.functional, "scaled_dot_product_attention", _attend),
        _Counted(counts),
    ):
        with torch.autograd.graph.saved_tensors_hooks(save, lambda x: x):
            mag_BFT, pha_BFT = stft(clean, config.spectral)
            enhanced = model(mag_BFT, pha_BFT)
        losses = spectral_losses(enhanced[0], enhanced[1], clean, config.spectral)
        weighted_total(losses, LossWeights(metric=0)).backward()
    storages = {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in saved}
    for parameter in model.parameters():
        storages.pop(parameter.untyped_storage()._cdata, None)
    counts.saved = sum(storages.values())
    return counts


def _attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    y, _ = _attention(q, k, v)
    return y


@torch.library.custom_op("rwsa_counts::attention", mutates_args=())
def _attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The shapes of torch's fused attention: its output, and a normaliser per query and head."""
    raise NotImplementedError


@_attention.register_fake
def _(q, k, v):  # type: ignore[no-untyped-def]
    # As torch's kernels: the output's heads lie side by side.
    return torch.empty_like(q.transpose(1, 2).contiguous()).transpose(1, 2), q.new_empty(q.shape[:-1])


@torch.library.custom_op("rwsa_counts::attention_backward", mutates_args=())
def _attention_backward(
    q: Tensor, k: Tensor, v: Tensor, y: Tensor, normaliser: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    raise NotImplementedError


@_attention_backward.register_fake
def _(q, k, v, y, normaliser, dy):  # type: ignore[no-untyped-def]
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _save_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs, *output)


def _gradients(ctx, dy, _):  # type: ignore[no-untyped-def]
    return _attention_backward(*ctx.saved_tensors, dy)


_attention.register_autograd(_gradients, setup_context=_save_context)


_MOVES_NOTHING = ("empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view")


class _Counted(TorchDispatchMode):
    def __init__(self, counts: StepCounts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if not _is_view(func):
            tensors = [x for x in tree_leaves((args, kwargs, results)) if isinstance(x, Tensor)]
            self._counts.operators += 1
            self._counts.moved += sum(_bytes(x) for x in tensors)
            self._counts.names[str(func)] += sum(_bytes(x) for x in tensors)
        return results


def _is_view(func: Any) -> bool:
    """Whether an operator returns what it was given, and moves nothing."""
    if func.overloadpacket.__name__ in _MOVES_NOTHING:
        return True
    returns = [each.alias_info for each in func._schema.returns]
    return bool(returns) and all(alias is not None and not alias.is_write for alias in returns)


def _bytes(x: Tensor) -> int:
    """An expanded tensor is read once."""
    return min(x.numel() * x.element_size(), x.untyped_storage().nbytes())


if __name__ == "__main__":
    main()
