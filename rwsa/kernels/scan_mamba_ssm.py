"""The CUDA scan of the mamba-ssm package.

Releases since 2.3.2 contain the Mamba-1 kernel only if built with `MAMBA_KEEP_CUDA_BUILD=TRUE`.
"""

from __future__ import annotations

from torch import Tensor


def selective_scan_mamba_ssm(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None, reverse: bool
) -> Tensor:
    """See `rwsa.kernels.scan.selective_scan`. Copies to the kernel's `[batch, channel, length]`."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    shape = u.shape
    sequences = [x.flip(-2) if reverse else x for x in (u, delta, B, C)]
    u_BDL, delta_BDL, B_BNL, C_BNL = (_channel_first(x) for x in sequences)
    gate = None if z is None else _channel_first(z.flip(-2) if reverse else z)
    y_BDL = selective_scan_fn(u_BDL, delta_BDL, A, B_BNL, C_BNL, D, gate)
    y = y_BDL.transpose(1, 2).reshape(shape)
    return y.flip(-2) if reverse else y


def _channel_first(x: Tensor) -> Tensor:
    return x.reshape(-1, *x.shape[-2:]).transpose(1, 2).contiguous()
