"""The CUDA scan of the mamba-ssm package.

Releases 2.2.4 to 2.3.1 build the Mamba-1 kernel by default, and so does 2.3.2.post1. 2.3.2 does not, and from
there on the package requires tilelang and others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from rwsa.errors import InputError


def selective_scan_mamba_ssm(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None, reverse: bool
) -> Tensor:
    """See `rwsa.kernels.scan.selective_scan`. Copies to the kernel's `[batch, channel, length]`.

    The kernel accepts sequences of one dtype only; under autocast u, B, C and z are of lower precision than
    delta, so all are computed in delta's. Returns u's dtype.

    Raises:
        InputError: the package cannot be imported, for example since it was built for another torch.
    """
    scan = _import_kernel()
    sequences = [x for x in (u, delta, B, C, z) if x is not None]
    dtype = reduce(torch.promote_types, (x.dtype for x in sequences))
    u_BDL, delta_BDL, B_BNL, C_BNL, *gate = (_channel_first(x, dtype, reverse) for x in sequences)
    y_BDL = scan(u_BDL, delta_BDL, A.float(), B_BNL, C_BNL, D.float(), gate[0] if gate else None)
    y = y_BDL.transpose(1, 2).reshape(u.shape).to(u.dtype)
    return y.flip(-2) if reverse else y


def _channel_first(x: Tensor, dtype: torch.dtype, reverse: bool) -> Tensor:
    x = x.flip(-2) if reverse else x
    return x.reshape(-1, *x.shape[-2:]).transpose(1, 2).to(dtype).contiguous()


def _import_kernel() -> Callable[..., Tensor]:
    try:
        import selective_scan_cuda  # noqa: F401 (the package may import without its kernel)
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except Exception as error:  # a shared library for another torch or CUDA fails in many ways
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"scan backend 'mamba_ssm': mamba-ssm is installed and cannot be imported ({reason}); build it"
            " for this torch with pip install --no-build-isolation --force-reinstall --no-deps 'rwsa[cuda]',"
            " or uninstall it"
        ) from error
    return selective_scan_fn
