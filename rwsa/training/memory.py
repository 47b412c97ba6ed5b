"""Memory that does not suffice: one message with the remedies, whatever it was that asked for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rwsa.errors import InputError


@contextmanager
def enough_memory() -> Iterator[None]:
    """Run a training, or what follows it.

    Raises:
        InputError: there is too little memory for it, on the GPU or beside it.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            "out of memory; let each worker take its segments in more parts (accumulate), validate fewer at"
            f" once (valid_batch_size), or use more workers or a smaller model: {said}"
        ) from error


def _out_of_memory(error: BaseException) -> bool:
    # For memory that is not a GPU's, torch has no class of its own.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
