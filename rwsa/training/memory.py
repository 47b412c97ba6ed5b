"""Out-of-memory errors as one message with the remedies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rwsa.errors import InputError


@contextmanager
def explain_out_of_memory(
    remedy: str = "raise accumulate, lower valid_batch_size, or use more workers or a smaller model",
) -> Iterator[None]:
    """Turn an out-of-memory error of the GPU or the host into an `InputError`.

    Raises:
        InputError: memory ran out; with the remedy.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch has no class of its own for memory of the host.
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and (
            "DefaultCPUAllocator" not in str(error)
        ):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"out of memory; {remedy}: {reason}") from error
