"""Every part and the whole network against float64, values and gradients; and how repeatable they are."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from rwsa.kernels.dispatch import float32_products
from rwsa.kernels.layout import SequenceAxis
from rwsa.kernels.scan import choose_backend, missing_backends, use_backend
from rwsa.models import SIZES, build_model
from rwsa.models.attention import AxialAttention
from rwsa.models.layers import DenseBlock, PatchEmbed
from rwsa.models.mamba import BiMamba
from tests.benchmarks.lease.machine import Section, start
from tests.scan_inputs import draw, lying_across

# Largest relative errors of values and of gradients, of one part and of the whole network, whose gradients
# amplify rounding a hundredfold.
LIMITS = {
    "float32": ((1e-4, 1e-3), (1e-3, 2e-2)),
    "tf32": ((1e-2, 3e-2), (2e-2, 0.3)),
    "bfloat16": ((3e-2, 8e-2), (0.1, 0.9)),
}
Outcome = tuple[list[Tensor], list[Tensor]]


def main() -> int:
    section = start("check")
    results, device = section.results, section.device
    missing = "; ".join(f"not {name}: {reason}" for name, reason in missing_backends(device).items())
    results.note("scan", f"{choose_backend(device)}; {missing}")
    _check_scan(section)
    for precision in _precisions(section):
        of_part, of_network = LIMITS[precision]
        for name, module, inputs, call in _parts(section):
            _check(section, f"{name}, {precision}", module, inputs, call, precision, of_part)
        network = build_model(section.size)
        inputs = _spectrum(section)
        _check(section, f"{section.size}, {precision}", network, inputs, _enhance, precision, of_network)
    _check_repeats(section)
    return 1 if results.failed else 0


def _precisions(section: Section) -> list[str]:
    return [name for name in LIMITS if section.on_gpu or name != "tf32"]


def _check_scan(section: Section) -> None:
    batch, length, channels, states = (8, 256, 64, 16) if section.on_gpu else (1, 12, 8, 4)
    for axis in ("time", "frequency"):
        for reverse in (False, True):

            def worst(axis: str = axis, reverse: bool = reverse) -> float:
                inputs = draw(batch, 4, length=length, channels=channels, states=states, reverse=reverse)
                inputs = inputs.on(section.device.type)
                inputs = lying_across(inputs) if axis == "time" else inputs
                truth = inputs.scanned("reference", torch.float64)
                found = inputs.scanned("auto")
                scales = {name: true.abs().max().clamp(min=1) for name, true in truth.items()}
                return max(float((found[n] - truth[n]).abs().max() / scales[n]) for n in truth)

            section.results.measure(
                f"scan along {axis}, reverse {reverse}", worst, "largest error", most=1e-4
            )


def _parts(section: Section) -> Iterator[tuple[str, nn.Module, list[Tensor], Callable[..., list[Tensor]]]]:
    """Layers of a level, their inputs and how they are called."""
    torch.manual_seed(0)
    channels, heads, frames, bins = (16, 4, 64, 128) if section.on_gpu else (8, 2, 5, 12)
    x = torch.randn(2, frames, bins, channels)
    for axis in SequenceAxis:
        along = partial(_along, axis=axis)
        attention = AxialAttention(channels, heads)
        nn.init.xavier_uniform_(attention.out.weight)
        yield f"attention along {axis.name.lower()}", attention, [x], along
        yield f"mixer along {axis.name.lower()}", BiMamba(channels), [x], along
    planes = x.permute(0, 3, 1, 2)
    yield "patch embedding, deformable", PatchEmbed(channels), [planes], _call
    yield "dense block", DenseBlock(channels), [planes], _call


def _call(module: nn.Module, x: Tensor) -> list[Tensor]:
    return [module(x)]


def _along(module: nn.Module, x: Tensor, *, axis: SequenceAxis) -> list[Tensor]:
    return [module(x, axis)]


def _enhance(module: nn.Module, mag: Tensor, pha: Tensor) -> list[Tensor]:
    enhanced, phase = module(mag, pha)
    return [enhanced, phase.cos(), phase.sin()]


def _spectrum(section: Section) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    bins, frames = SIZES[section.size].spectral.bins, 64 if section.on_gpu else 8
    mag, pha = torch.randn(2, 1, bins, frames, generator=random)
    return [mag.abs(), pha]


def _check(
    section: Section,
    name: str,
    module: nn.Module,
    inputs: Sequence[Tensor],
    call: Callable[..., list[Tensor]],
    precision: str,
    limits: tuple[float, float],
) -> None:
    errors: list[float] = []

    def values() -> float:
        with use_backend("reference"):
            true = outcome(module, inputs, call, section.device, "float64")
        found = outcome(module, inputs, call, section.device, precision)
        errors.extend(_error(f, t) for f, t in zip(found, true, strict=True))
        return errors[0]

    section.results.measure(f"{name}: values", values, "relative error", most=limits[0])
    if errors:
        section.results.measure(f"{name}: gradients", lambda: errors[1], "relative error", most=limits[1])


def outcome(
    module: nn.Module,
    inputs: Sequence[Tensor],
    call: Callable[..., list[Tensor]],
    device: torch.device,
    precision: str,
) -> Outcome:
    """Values, and gradients of their weighted sum with respect to inputs and parameters."""
    dtype = torch.float64 if precision == "float64" else torch.float32
    module = copy.deepcopy(module).to(device, dtype)
    leaves = [x.to(device, dtype).requires_grad_() for x in inputs]
    with _multiplying(device, precision):
        values = call(module, *leaves)
    random = torch.Generator().manual_seed(1)
    weights = [torch.randn(v.shape, generator=random).to(device, torch.float64) for v in values]
    loss = sum((v.double() * w).mean() for v, w in zip(values, weights, strict=True))
    assert isinstance(loss, Tensor)
    gradients = torch.autograd.grad(loss, [*leaves, *module.parameters()], allow_unused=True)
    return [v.detach() for v in values], [g for g in gradients if g is not None]


@contextmanager
def _multiplying(device: torch.device, precision: str) -> Iterator[None]:
    half = precision == "bfloat16"
    with (
        float32_products(device, tf32=precision in ("tf32", "bfloat16")),
        torch.autocast(device.type, torch.bfloat16, enabled=half),
    ):
        yield


def _error(found: list[Tensor], true: list[Tensor]) -> float:
    difference = sum(((f.double() - t).square().sum() for f, t in zip(found, true, strict=True)))
    total = sum(t.square().sum() for t in true)
    return float((torch.as_tensor(difference) / torch.as_tensor(total)).sqrt())


def _check_repeats(section: Section) -> None:
    network, inputs = build_model(section.size), _spectrum(section)
    for precision in _precisions(section):

        def differing(precision: str = precision) -> float:
            once, again = (outcome(network, inputs, _enhance, section.device, precision) for _ in range(2))
            pairs = zip([*once[0], *once[1]], [*again[0], *again[1]], strict=True)
            return sum(int((one != two).sum()) for one, two in pairs)

        # On a GPU, gradients of grid_sample are added in any order.
        most = None if section.on_gpu else 0
        section.results.measure(f"{section.size} twice, {precision}", differing, "values differ", most=most)


if __name__ == "__main__":
    sys.exit(main())
