"""Machine and package versions of a run. No environment variables: they may contain secrets."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from typing import Any

import torch

from rwsa.kernels import scan
from rwsa.shards.index import made_with


def machine_and_versions() -> dict[str, Any]:
    """Machine, devices, and versions of the project's dependencies, as JSON values."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "machine": platform.node(),
        "system": platform.platform(),
        "cpu": made_with()["cpu"],
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "scan": scan.resolve_backend(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": _versions(),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for requirement in ["rwsa", *(importlib.metadata.requires("rwsa") or ())]:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed
    return dict(sorted(versions.items()))
