"""The mLSTM cell of xLSTM in chunks: its time grows with the length, not with its square.

With F the running sum of log σ(forget) and a = input − F, the weight of step s at step t is exp(a_s − M_t),
M_t the maximum of a up to t, so the cell is causal linear attention with keys times exp(a) and queries times
exp(−M). Within a chunk it is computed as attention, and between chunks by a matrix state. No exponent is
above 0.

Legend: N sequences and heads, L length, W width of a head, P steps of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# The normalizer's smallest value, as in the published code.
EPSILON = 1e-6
# Chunks are about as long as a head is wide, where both parts of the work are equal.
_CHUNK_STEPS = 64


def mlstm_cell(q_NLW: Tensor, k_NLW: Tensor, v_NLW: Tensor, input_NL: Tensor, forget_NL: Tensor) -> Tensor:
    """h_NLW of queries, keys, values and the gates' pre-activations; in float32 unless they are float64.

    N may be several dimensions.

    h_t = Σ_s w_ts v_s / (max(|Σ_s w_ts|, exp(−m_t)) + 1e-6) over s ≤ t, with
    w_ts = exp(ĩ_s + Σ_{s<r≤t} log σ(f̃_r) − m_t) · q_t·k_s / √W and m_t the largest such exponent before its
    subtraction.

    Source: Beck et al. 2024, "xLSTM", equations 19 to 27, with the published code's EPSILON.
    """
    dtype = torch.float64 if q_NLW.dtype is torch.float64 else torch.float32
    with torch.autocast(q_NLW.device.type, enabled=False):
        q, k, v = (x.to(dtype).flatten(0, -3) for x in (q_NLW, k_NLW, v_NLW))
        input_gate, forget_gate = (x.to(dtype).flatten(0, -2) for x in (input_NL, forget_NL))
        decay = F.logsigmoid(forget_gate).cumsum(dim=-1)
        a = input_gate - decay
        peak = a.cummax(dim=-1).values
        weighted, total = _Attention.apply(q, k, v, a, peak)  # type: ignore[no-untyped-call]
        normalizer = torch.maximum(total.abs(), torch.exp(-decay - peak)) + EPSILON
        h: Tensor = weighted / normalizer.unsqueeze(-1)
    return h.to(q_NLW.dtype).view(q_NLW.shape)


def mlstm_cell_reference(
    q_NLW: Tensor, k_NLW: Tensor, v_NLW: Tensor, input_NL: Tensor, forget_NL: Tensor
) -> Tensor:
    """`mlstm_cell` by the full matrix of weights, in the dtype of the inputs."""
    steps = F.logsigmoid(forget_NL).cumsum(dim=-1)
    exponents = input_NL.unsqueeze(-2) + steps.unsqueeze(-1) - steps.unsqueeze(-2)
    causal = torch.ones_like(exponents, dtype=torch.bool).tril()
    exponents = exponents.masked_fill(~causal, -torch.inf)
    peak = exponents.amax(dim=-1, keepdim=True)
    weights = torch.exp(exponents - peak) * (q_NLW @ k_NLW.mT) * q_NLW.shape[-1] ** -0.5
    total = weights.sum(dim=-1, keepdim=True)
    return weights @ v_NLW / (torch.maximum(total.abs(), torch.exp(-peak)) + EPSILON)


def _chunks(length: int) -> Iterator[slice]:
    count = max(1, round(length / _CHUNK_STEPS))
    bounds = [length * number // count for number in range(count + 1)]
    return map(slice, bounds[:-1], bounds[1:])


def _decays(a_NP: Tensor, peak_NP: Tensor, scale: float) -> Tensor:
    """scale · exp(a_s − peak_t) where s ≤ t, else 0: `[N, P, P]`."""
    return (a_NP.unsqueeze(-2) - peak_NP.unsqueeze(-1)).clamp_(max=0).exp_().tril_().mul_(scale)


class _Attention(torch.autograd.Function):
    """Σ_s exp(a_s − peak_t) q_t·k_s / √W v_s over s ≤ t, `[N, L, W]`, and the same without v, `[N, L]`."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, a: Tensor, peak: Tensor) -> tuple[Tensor, Tensor]:
        weighted, total = torch.empty_like(v), torch.empty_like(a)
        states = list[tuple[Tensor, Tensor, Tensor]]()
        scale = q.shape[-1] ** -0.5
        # Before the first chunk nothing is stored: any reference does.
        state, norm, reference = v.new_zeros(len(q), q.shape[-1], v.shape[-1]), q[:, 0] * 0, peak[:, :1]
        for part in _chunks(q.shape[1]):
            states.append((state, norm, reference))
            weights = torch.bmm(q[:, part], k[:, part].mT).mul_(_decays(a[:, part], peak[:, part], scale))
            earlier = q[:, part] * (scale * torch.exp(reference - peak[:, part])).unsqueeze(-1)
            weighted[:, part] = torch.bmm(weights, v[:, part]).baddbmm_(earlier, state)
            total[:, part] = weights.sum(dim=-1) + torch.bmm(earlier, norm.unsqueeze(-1)).squeeze(-1)
            last = peak[:, part][:, -1:]
            scaled = k[:, part] * torch.exp(a[:, part] - last).unsqueeze(-1)
            kept = torch.exp(reference - last)
            state = torch.baddbmm(state * kept.unsqueeze(-1), scaled.mT, v[:, part])
            norm, reference = norm * kept + scaled.sum(dim=1), last
        ctx.save_for_backward(q, k, v, a, peak, *(tensor for each in states for tensor in each))
        return weighted, total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        q, k, v, a, peak, *saved = ctx.saved_tensors
        dweighted, dtotal = gradients
        scale = q.shape[-1] ** -0.5
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        dstate, dnorm = torch.zeros_like(saved[0]), torch.zeros_like(saved[1])  # after the chunk
        for number, part in reversed(list(enumerate(_chunks(q.shape[1])))):
            state, norm, reference = saved[3 * number : 3 * number + 3]
            last = peak[:, part][:, -1:]
            decays = _decays(a[:, part], peak[:, part], scale)
            dscores = torch.baddbmm(dtotal[:, part].unsqueeze(-1), dweighted[:, part], v[:, part].mT)
            dscores.mul_(decays)
            weights = torch.bmm(q[:, part], k[:, part].mT).mul_(decays)
            factor = (scale * torch.exp(reference - peak[:, part])).unsqueeze(-1)
            earlier = q[:, part] * factor
            dearlier = torch.baddbmm(
                dtotal[:, part].unsqueeze(-1) * norm.unsqueeze(1), dweighted[:, part], state.mT
            )
            dq[:, part] = (dearlier * factor).baddbmm_(dscores, k[:, part])
            later = torch.exp(a[:, part] - last).unsqueeze(-1)
            dscaled = torch.baddbmm(dnorm.unsqueeze(1), v[:, part], dstate.mT)
            dk[:, part] = (dscaled * later).baddbmm_(dscores.mT, q[:, part])
            dv[:, part] = torch.bmm(k[:, part] * later, dstate).baddbmm_(weights.mT, dweighted[:, part])
            kept = torch.exp(reference - last)
            dstate = torch.baddbmm(dstate * kept.unsqueeze(-1), earlier.mT, dweighted[:, part])
            dnorm = dnorm * kept + torch.bmm(dtotal[:, part].unsqueeze(1), earlier).squeeze(1)
        # A change of a scales the key, one of the peak the query; scales of states cancel.
        return dq, dk, dv, (k * dk).sum(dim=-1), -(q * dq).sum(dim=-1)
