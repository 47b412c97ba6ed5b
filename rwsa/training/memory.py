"""Out-of-memory errors as one message with the remedies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rwsa.errors import InputError


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Turn an out-of-memory error of the GPU or the host into an `InputError`.

    Raises:
        InputError: memory ran out; names the options that need less.
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
        raise InputError(
            "out of memory; raise accumulate, lower valid_batch_size, or use more workers or a smaller"
            f" model: {reason}"
        ) from error
