"""Import of optional packages, with installation instructions where one is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from rwsa.errors import InputError

_REMEDIES = {
    "pesq": "pip install 'rwsa[metrics]'; pesq is built from source and needs a C compiler "
    "(Debian: apt-get install build-essential python3-dev)",
    "pystoi": "pip install 'rwsa[metrics]'",
    "speechmos": "pip install 'rwsa[dnsmos]'",
    "onnxruntime": "pip install 'rwsa[dnsmos]'",
    "pocketsphinx": "pip install 'rwsa[phones]'",
}


def import_package(module: str) -> ModuleType:
    """Import a package of the `metrics`, `dnsmos` or `phones` extra, or one of its modules.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise InputError(f"the metrics need the package {package} ({error}): {_REMEDIES[package]}") from error
