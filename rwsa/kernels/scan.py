"""The selective scan of Mamba-1 and the choice of its backend.

`reference` is a plain torch loop and the definition; `cpu` is compiled by numba at its first use; `triton`
is compiled by Triton for the GPU (part of torch's CUDA wheels); `mamba_ssm` is the CUDA kernel of the
mamba-ssm package.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from sysconfig import get_path
from typing import TYPE_CHECKING, TypeAlias

from rwsa.errors import InputError

if TYPE_CHECKING:  # `rwsa info` asks for the backends and does not need torch
    import torch
    from torch import Tensor

    Scan: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, bool], Tensor]


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None = None,
    *,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Scan h_t = exp(δ_t A) h_{t-1} + δ_t B_t u_t; y_t = C_t·h_t + D u_t, times SiLU(z_t) where given.

    Source: Gu & Dao 2023, "Mamba", Algorithm 2, with zero-order hold for A and Euler's rule for B.

    Args:
        u: input `[..., length, channel]` with any leading batch dimensions. A time axis seen through
            `transpose` (third from last in memory) is scanned without a copy.
        delta: step sizes, after their softplus, shaped as u.
        A: `[channel, state]`, negative.
        B, C: `[..., length, state]`.
        D: `[channel]`.
        z: gate, shaped as u.
        reverse: scan from the last step to the first (the same as flip, scan, flip).
        backend: `auto`, `reference`, `cpu`, `triton` or `mamba_ssm`. With TRITON_INTERPRET=1 in the
            environment before torch is imported, `triton` also runs on the CPU, slowly, for tests.

    Returns:
        y, shaped as u.

    Raises:
        InputError: the backend is unknown or not available here.
    """
    return _load(resolve_backend(u.device, backend))(u, delta, A, B, C, D, z, reverse)


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Run every `auto` scan inside this block, in every thread, on one backend."""
    before, _auto["backend"] = _auto["backend"], backend
    try:
        yield
    finally:
        _auto["backend"] = before


def resolve_backend(device: torch.device, backend: str = "auto") -> str:
    """The backend that `backend` selects on `device`.

    Raises:
        InputError: it is unknown or not available here; or `auto` finds only `reference` on a GPU, which
            takes 170,000 kernels and more than 100 GB for a training step of xs. `use_backend("reference")`
            asks for it.
    """
    requested = _auto["backend"] if backend == "auto" else backend
    if requested != "auto":
        return _checked(requested, device)
    chosen = choose_backend(device)
    if chosen == "reference" and device.type == "cuda":
        missing = missing_backends(device)
        raise InputError(
            f"no fast scan for this GPU: triton: {missing['triton']}; mamba_ssm: {missing['mamba_ssm']};"
            " install what is missing, or run on the CPU"
        )
    return chosen


def choose_backend(device: torch.device) -> str:
    """The fastest backend that can run on `device`, even if that is the slow `reference` on a GPU."""
    missing = missing_backends(device)
    return next(name for name in _FASTEST_FIRST.get(device.type, ("reference",)) if name not in missing)


def missing_backends(device: torch.device) -> dict[str, str]:
    """Backends that cannot run on `device`, with the reason for each."""
    missing = {}
    if device.type != "cpu":
        missing["cpu"] = f"runs on the CPU, not on {device.type}"
    if "triton" not in _INSTALLED:
        missing["triton"] = "Triton is not installed (pip install triton; it comes with torch's CUDA wheels)"
    elif device.type != "cuda" and not (device.type == "cpu" and _triton_is_interpreted()):
        missing["triton"] = f"needs a CUDA device, not {device.type}"
    elif device.type == "cuda" and not _CAN_BUILD:
        missing["triton"] = "Triton needs gcc, clang or CC, and Python's headers, to build its launcher"
    if device.type != "cuda":
        missing["mamba_ssm"] = f"needs a CUDA device, not {device.type}"
    elif "selective_scan_cuda" not in _INSTALLED:
        missing["mamba_ssm"] = "the package's Mamba-1 kernel is not installed (pip install 'rwsa[cuda]')"
    return missing


BACKENDS = ("reference", "cpu", "triton", "mamba_ssm")
_FASTEST_FIRST = {"cpu": ("cpu", "reference"), "cuda": ("triton", "mamba_ssm", "reference")}
# Looked up once, since scans are frequent and torch.compile would trace the search.
_INSTALLED = frozenset(name for name in ("triton", "selective_scan_cuda") if find_spec(name) is not None)
_CAN_BUILD = (
    bool(os.environ.get("CC") or which("gcc") or which("clang"))
    and Path(get_path("include"), "Python.h").is_file()
)
_auto = {"backend": "auto"}


def _triton_is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _checked(backend: str, device: torch.device) -> str:
    if backend not in BACKENDS:
        raise InputError(f"scan backend '{backend}' is unknown; choose auto, {', '.join(BACKENDS)}")
    missing = missing_backends(device)
    if backend in missing:
        raise InputError(f"scan backend '{backend}' is not available: {missing[backend]}; choose auto")
    return backend


def _load(name: str) -> Scan:
    if name == "cpu":
        from rwsa.kernels.scan_cpu import selective_scan_cpu

        return selective_scan_cpu
    if name == "triton":
        from rwsa.kernels.scan_triton import selective_scan_triton

        return selective_scan_triton
    if name == "mamba_ssm":
        from rwsa.kernels.scan_mamba_ssm import selective_scan_mamba_ssm

        return selective_scan_mamba_ssm
    from rwsa.kernels.scan_reference import selective_scan_reference

    return selective_scan_reference
