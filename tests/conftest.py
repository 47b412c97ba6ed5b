"""What every test may need: one thread, and the folders of recordings and of published numbers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Two processes that each spin two threads on two cores run ten times slower."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Folder of real recordings (`RWSA_DATA`)."""
    return _folder("RWSA_DATA", "../shared/data")


@pytest.fixture(scope="session")
def official() -> Path:
    """Folder of the published numbers to agree with (`RWSA_OFFICIAL`)."""
    return _folder("RWSA_OFFICIAL", "../shared/official")


def _folder(variable: str, default: str) -> Path:
    folder = CHECKOUT / os.environ.get(variable, default)
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; set {variable}")
    return folder
