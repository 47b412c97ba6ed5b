"""Tests of the Triton scan in its interpreter and on a GPU; `test_scan_triton.py` runs this file.

On the CPU it needs TRITON_INTERPRET=1 in the environment, which Triton reads once, when it is imported:
hence a file that pytest does not find by itself. The interpreter takes 20 ms a step, so shapes are small.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rwsa.kernels import scan_triton as triton_scan
from rwsa.kernels.scan import choose_backend, selective_scan
from tests.scan_inputs import Inputs, assert_agrees, draw, lying_across, strided

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def assert_triton_agrees(inputs: Inputs) -> None:
    assert_agrees(inputs, backend="triton", tolerance=1e-4)


@pytest.mark.parametrize(
    ("length", "reverse", "across"),
    [(1, False, True), (2, True, True), (17, True, True), (33, True, False), (65, False, False)],
)
def test_values_and_gradients(length: int, reverse: bool, across: bool) -> None:
    inputs = draw(1, 2 if across else 1, length=length, channels=5, reverse=reverse).on(DEVICE)
    assert_triton_agrees(lying_across(inputs) if across else inputs)


if DEVICE == "cuda":  # far too many steps for the interpreter

    @pytest.mark.parametrize("across", [False, True])
    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize(("length", "channels", "states"), [(256, 64, 16), (257, 96, 16), (129, 40, 5)])
    def test_values_and_gradients_at_the_networks_sizes(
        length: int, channels: int, states: int, reverse: bool, across: bool
    ) -> None:
        inputs = draw(3, 50, length=length, channels=channels, states=states, reverse=reverse).on(DEVICE)
        inputs = lying_across(inputs) if across else inputs
        assert_triton_agrees(inputs)
        once, again = inputs.scanned("triton"), inputs.scanned("triton")
        assert all(torch.equal(once[name], again[name]) for name in once)


def test_blocks_of_channels_and_groups_of_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_scan, "TILE_STATES", 16)  # four channels per block, the last one half empty
    monkeypatch.setattr(triton_scan, "GROUPS", 2)
    assert_triton_agrees(lying_across(draw(1, 3, length=3, channels=6, reverse=True).on(DEVICE)))


@pytest.mark.parametrize("states", [1, 3])
def test_without_gate_and_other_states(states: int) -> None:
    assert_triton_agrees(draw(1, 1, length=6, channels=3, states=states, gate=False).on(DEVICE))


@pytest.mark.parametrize("batch", [(), (2,), (2, 1, 2)])
def test_any_leading_dimensions(batch: tuple[int, ...]) -> None:
    assert_triton_agrees(draw(*batch, length=3, channels=4).on(DEVICE))


def test_empty_inputs() -> None:
    for batch, length in ((0, 3), (2, 0)):
        results = draw(batch, length=length, channels=4).on(DEVICE).scanned("triton")
        assert all(not value.any() for value in results.values())


def test_inputs_of_any_memory_layout() -> None:
    inputs = draw(2, 2, length=5, channels=3).on(DEVICE)
    mixed = {n: strided(x) if number % 2 else x for number, (n, x) in enumerate(inputs.tensors.items())}
    mixed["B"] = mixed["B"].transpose(0, 2).contiguous().transpose(0, 2)
    mixed["C"] = mixed["C"][:1].expand(2, -1, -1, -1)
    mixed["z"] = mixed["z"].transpose(-1, -2).contiguous().transpose(-1, -2)
    assert not any(mixed[name].is_contiguous() for name in ("delta", "B", "C", "D", "z"))
    assert_triton_agrees(Inputs(mixed, strided(inputs.dy), reverse=True))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # 1 / (1 + inf) = 0 is intended
def test_saturated_gates_and_decays() -> None:
    inputs = draw(1, 1, length=13, channels=3).on(DEVICE)
    edges = [-1e4, -200.0, -100.0, -89.0, -87.0, -20.0, 0.0, 20.0, 87.0, 89.0, 100.0, 200.0, 1e4]
    inputs.tensors["z"][0, 0] = torch.tensor(edges, device=DEVICE)[:, None]
    inputs.tensors["delta"][0, 0, 6:9] = 1e3
    assert_triton_agrees(inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_as_under_autocast(dtype: torch.dtype) -> None:
    """Step sizes and parameters are float32; errors are those of rounding the results."""
    drawn = draw(1, 1, length=6, channels=5).on(DEVICE)
    leaves = {n: x.to(dtype) if n in "uBCz" else x for n, x in drawn.tensors.items()}
    truth = Inputs({n: x.double() for n, x in leaves.items()}, drawn.dy.to(dtype).double())
    expected = truth.scanned("reference", torch.float64)
    y = selective_scan(**{n: x.requires_grad_() for n, x in leaves.items()}, backend="triton")
    gradients = torch.autograd.grad(y, list(leaves.values()), drawn.dy.to(dtype))
    results = {"y": y.detach()} | {f"d{n}": g for n, g in zip(leaves, gradients, strict=True)}
    for name, value in results.items():
        assert value.dtype is (dtype if name[-1] in "yuBCz" else torch.float32)
        rounding = torch.finfo(value.dtype).eps if value.dtype is dtype else 1e-4
        assert (value - expected[name]).abs().max() < rounding * expected[name].abs().max().clamp(min=1), name


def test_states_are_float32_for_any_dtype() -> None:
    """A bfloat16 state of 100 would stay 100 when 0.25 is added."""
    ones = torch.ones(1, 21, 1, dtype=torch.bfloat16, device=DEVICE)
    u = ones / 4
    u[0, 0] = 100
    zero = torch.zeros(1, dtype=torch.bfloat16, device=DEVICE)
    y = selective_scan(u, ones, zero[:, None], ones, ones, zero, backend="triton")
    assert y[0, -1].item() == 105


def test_the_operator_is_registered_correctly() -> None:
    """Schema, autograd, and shapes and strides of its fake implementation."""
    inputs = lying_across(draw(1, 2, length=3, channels=3, states=2, gate=False).on(DEVICE)).tensors
    tensors = [inputs[name].requires_grad_() for name in ("u", "delta", "B", "C", "A", "D")]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(triton_scan._scan, (*tensors, None, True, True), test_utils=checks)


def test_a_compiled_graph_has_the_same_values_and_gradients() -> None:
    inputs = lying_across(draw(1, 2, length=3, channels=3).on(DEVICE))

    def loss(tensors: dict[str, Tensor]) -> Tensor:
        return (selective_scan(**tensors, reverse=True, backend="triton") * inputs.dy).sum()

    def gradients(function: object) -> tuple[Tensor, ...]:
        leaves = {name: x.clone().requires_grad_() for name, x in inputs.tensors.items()}
        return torch.autograd.grad(function(leaves), list(leaves.values()))  # type: ignore[operator]

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for eager, traced in zip(gradients(loss), gradients(compiled), strict=True):
        torch.testing.assert_close(traced, eager)


def test_without_gradients_no_states_are_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    saved, scan = [], triton_scan._scan
    monkeypatch.setattr(triton_scan, "_scan", lambda *a: saved.append(a[-1]) or scan(*a))
    inputs = draw(1, length=2, channels=2).on(DEVICE).tensors
    with torch.no_grad():
        alone = selective_scan(**inputs, backend="triton")
    inputs["u"].requires_grad_()
    assert torch.equal(alone, selective_scan(**inputs, backend="triton"))
    assert saved == [False, True]


@pytest.mark.parametrize("name", ["delta", "B", "C", "D", "z"])
def test_mismatched_shapes_are_refused(name: str) -> None:
    inputs = draw(2, length=3, channels=4).on(DEVICE).tensors
    inputs[name] = inputs[name][:1]
    with pytest.raises(ValueError, match=rf"{name} is \[1.*, not \["):
        selective_scan(**inputs, backend="triton")


def test_auto_uses_it_on_a_gpu_only() -> None:
    assert choose_backend(torch.device(DEVICE)) == ("triton" if DEVICE == "cuda" else "cpu")
