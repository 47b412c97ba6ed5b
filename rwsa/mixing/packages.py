"""Packages that only mixing needs; they are large, so `pip install rwsa` leaves them out."""

from __future__ import annotations

import importlib
from typing import Any

from rwsa.errors import InputError


def mixing_package(name: str, *, needed_by: str) -> Any:
    """Import a package of the extra `mixing`.

    Raises:
        InputError: it is not installed; `needed_by` names what needs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{needed_by} needs {name} ({error}); pip install 'rwsa[mixing]'") from error
