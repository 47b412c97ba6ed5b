"""The compiled scan against the float64 reference, for different memory layouts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from rwsa.errors import InputError
from rwsa.kernels import scan_loops
from rwsa.kernels.scan import choose_backend, missing_backends, selective_scan
from rwsa.kernels.scan_mamba_ssm import selective_scan_mamba_ssm
from rwsa.kernels.simd import LANES
from tests.scan_inputs import NAMES, Inputs, assert_agrees, draw, lying_across, strided

# Around multiples of the 32 steps between saved states, and odd lengths.
LENGTHS = (1, 2, 3, 17, 31, 32, 33, 63, 65, 127, 129, 255, 257)
CHANNELS = (1, 5, 16, 17, 40)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_values_and_gradients_along_frequency(length: int, reverse: bool) -> None:
    for channels in CHANNELS:
        assert_agrees(draw(2, 2, length=length, channels=channels, reverse=reverse))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_values_and_gradients_along_time(length: int, reverse: bool) -> None:
    for channels in (5, 16):
        assert_agrees(lying_across(draw(2, 3, length=length, channels=channels, reverse=reverse)))


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("states", [1, 16])
def test_without_gate_and_other_states(across: bool, states: int) -> None:
    inputs = draw(2, 2, length=37, channels=21, states=states, gate=False)
    assert_agrees(lying_across(inputs) if across else inputs)


@pytest.mark.parametrize("batch", [(), (3,), (1, 1, 2), (2, 1, 1, 2)])
def test_any_leading_dimensions(batch: tuple[int, ...]) -> None:
    assert_agrees(draw(*batch, length=9, channels=16))


def test_inputs_of_any_memory_layout() -> None:
    inputs = draw(2, 3, length=33, channels=24)
    mixed = dict(inputs.tensors)
    for number, name in enumerate(NAMES):
        mixed[name] = strided(mixed[name]) if number % 2 else mixed[name]
    mixed["B"] = mixed["B"].transpose(0, 2).contiguous().transpose(0, 2)
    mixed["C"] = mixed["C"][:1].expand(2, -1, -1, -1)
    assert not any(mixed[name].is_contiguous() for name in ("delta", "B", "C", "D"))
    assert_agrees(Inputs(mixed, strided(inputs.dy)))
    across = lying_across(inputs).tensors
    assert_agrees(Inputs(mixed | {"u": across["u"], "z": across["z"]}, inputs.dy, reverse=True))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_reverse_is_flip_scan_flip(backend: str) -> None:
    inputs = draw(3, length=35, channels=16)
    flipped = {n: x.flip(-2) if x.dim() > 2 else x for n, x in inputs.tensors.items()}
    reverse = selective_scan(**inputs.tensors, reverse=True, backend=backend)
    torch.testing.assert_close(reverse, selective_scan(**flipped, backend=backend).flip(-2))


def test_the_recurrence_by_hand() -> None:
    u, delta = torch.tensor([[2.0], [3.0]]), torch.tensor([[0.5], [1.0]])
    A, D = torch.tensor([[-1.0]]), torch.tensor([10.0])
    B, C = torch.tensor([[1.0], [2.0]]), torch.tensor([[4.0], [0.5]])
    first = 0.5 * 1 * 2
    second = np.exp(-1.0) * first + 1 * 2 * 3
    expected = torch.tensor([[4 * first + 20], [0.5 * second + 30]], dtype=torch.float32)
    for backend in ("reference", "cpu"):
        torch.testing.assert_close(selective_scan(u, delta, A, B, C, D, backend=backend), expected)


def test_saturated_gates_and_decays() -> None:
    inputs = draw(1, length=40, channels=16)
    edges = torch.tensor(
        [-1e4, -200.0, -100.0, -89.0, -87.0, -20.0, 0.0, 20.0, 87.0, 89.0, 100.0, 200.0, 1e4]
    )
    inputs.tensors["z"][0, : len(edges)] = edges[:, None]
    inputs.tensors["delta"][0, 20:30] = 1e3
    assert_agrees(inputs)


def test_saving_states_for_the_backward_pass_does_not_change_values() -> None:
    inputs = draw(2, length=70, channels=32)
    with torch.no_grad():
        alone = selective_scan(**inputs.tensors, backend="cpu")
    assert torch.equal(alone, inputs.scanned("cpu")["y"])


@pytest.fixture
def _threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads_restored")
@pytest.mark.parametrize("sequences", [1, 3, 16, 50])
def test_results_do_not_depend_on_the_number_of_threads(sequences: int) -> None:
    inputs, results = draw(sequences, length=33, channels=16), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(inputs.scanned("cpu"))
    for name, value in results[0].items():
        assert all(torch.equal(value, other[name]) for other in results[1:]), name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.bfloat16, 1e-2)])
def test_output_has_the_inputs_dtype(dtype: torch.dtype, tolerance: float) -> None:
    inputs = draw(2, length=9, channels=16).tensors
    cast = {name: x.to(dtype) for name, x in inputs.items()}
    y = selective_scan(**cast, backend="cpu")
    assert y.dtype is dtype
    truth = selective_scan(**{n: x.double() for n, x in cast.items()}, backend="reference")
    assert (y - truth).abs().max() < tolerance * truth.abs().max()


def test_exp2_is_accurate_over_its_whole_range() -> None:
    x = np.linspace(-126, 126, 20_000 * LANES, dtype=np.float32)
    halves = np.arange(-126, 126.5, 0.5, dtype=np.float32)
    x[: len(halves)] = halves
    out = np.empty_like(x)
    scan_loops.exp2_of(x, out)
    truth = np.exp2(x.astype(np.float64))
    assert np.abs(out / truth - 1).max() < 3e-7


def test_exp2_below_its_range_is_its_minimum() -> None:
    x, out = np.full(LANES, -1e6, np.float32), np.empty(LANES, np.float32)
    scan_loops.exp2_of(x, out)
    assert out == pytest.approx(2.0**-126, rel=1e-6)


def test_a_compiled_graph_has_the_same_values_and_gradients() -> None:
    inputs = draw(2, 2, length=33, channels=20)

    def loss(tensors: dict[str, Tensor]) -> Tensor:
        return (selective_scan(**tensors, reverse=True) * inputs.dy).sum()

    def gradients(function: object) -> tuple[Tensor, ...]:
        leaves = {name: x.clone().requires_grad_() for name, x in inputs.tensors.items()}
        return torch.autograd.grad(function(leaves), list(leaves.values()))  # type: ignore[operator]

    torch.compiler.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for eager, traced in zip(gradients(loss), gradients(compiled), strict=True):
        torch.testing.assert_close(traced, eager)
    torch.compiler.reset()


def test_the_backend_is_chosen_by_device() -> None:
    assert choose_backend(torch.device("cpu")) == "cpu"
    assert choose_backend(torch.device("meta")) == "reference"
    assert missing_backends(torch.device("cpu"))["mamba_ssm"] == "needs a CUDA device, not cpu"


@pytest.mark.parametrize(
    ("backend", "device", "message"),
    [
        ("tritom", "cpu", "'tritom' is unknown; choose auto, reference, cpu, triton, mamba_ssm"),
        ("mamba_ssm", "cpu", "'mamba_ssm' is not available: needs a CUDA device, not cpu"),
        ("cpu", "meta", "'cpu' is not available: runs on the CPU, not on meta"),
    ],
)
def test_an_unavailable_backend_is_refused(backend: str, device: str, message: str) -> None:
    tensors = {name: x.to(device) for name, x in draw(1, length=2, channels=16).tensors.items()}
    with pytest.raises(InputError, match=message):
        selective_scan(**tensors, backend=backend)


def channel_first_kernel(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None
) -> Tensor:
    """A stand-in for mamba-ssm's kernel, with its checks of layout and dtypes."""
    assert all(x.is_contiguous() and x.dim() == 3 for x in (u, delta, B, C))
    assert {x.dtype for x in (delta, B, C, *(() if z is None else (z,)))} == {u.dtype}
    assert A.dtype is D.dtype is torch.float32
    last = [x.transpose(1, 2) for x in (u, delta)], [x.transpose(1, 2) for x in (B, C)]
    gate = None if z is None else z.transpose(1, 2)
    return selective_scan(*last[0], A, *last[1], D, gate, backend="reference").transpose(1, 2)


def stand_in_for_mamba_ssm(monkeypatch: pytest.MonkeyPatch) -> None:
    interface = ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = channel_first_kernel  # type: ignore[attr-defined]
    for name in ("selective_scan_cuda", "mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_mamba_ssm_receives_its_own_layout(
    monkeypatch: pytest.MonkeyPatch, reverse: bool, gate: bool
) -> None:
    stand_in_for_mamba_ssm(monkeypatch)
    inputs = lying_across(draw(2, 3, length=7, channels=5, gate=gate)).tensors
    y = selective_scan_mamba_ssm(*(inputs.get(name) for name in NAMES), reverse)  # type: ignore[arg-type]
    torch.testing.assert_close(y, selective_scan(**inputs, reverse=reverse, backend="reference"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mamba_ssm_receives_one_dtype_under_autocast(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    stand_in_for_mamba_ssm(monkeypatch)
    inputs = draw(2, 3, length=7, channels=5).tensors
    half = {name: x.to(dtype) if name in "uBCz" else x for name, x in inputs.items()}
    leaves = {name: x.clone().requires_grad_() for name, x in half.items()}
    y = selective_scan_mamba_ssm(*(leaves[name] for name in NAMES), False)  # type: ignore[arg-type]
    expected = selective_scan(**{name: x.float() for name, x in half.items()}, backend="reference")
    assert y.dtype is dtype
    torch.testing.assert_close(y, expected.to(dtype))
    gradients = torch.autograd.grad(y.sum(), list(leaves.values()))
    assert [g.dtype for g in gradients] == [x.dtype for x in half.values()]


def test_mamba_ssm_that_cannot_be_imported_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "selective_scan_cuda.py").write_text(
        "raise ImportError('selective_scan_cuda.so: undefined symbol: _ZN3c104cuda')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    tensors = draw(1, length=2, channels=4).tensors
    with pytest.raises(InputError, match=r"cannot be imported \(.*undefined symbol.*; build it"):
        selective_scan_mamba_ssm(*(tensors[name] for name in NAMES), False)  # type: ignore[arg-type]


def test_mamba_ssm_kernel_agrees_with_the_reference() -> None:
    missing = missing_backends(torch.device("cuda"))
    if not torch.cuda.is_available() or "mamba_ssm" in missing:
        pytest.skip(missing.get("mamba_ssm", "no CUDA device"))
    inputs = draw(2, 3, length=129, channels=64, states=16, reverse=True)
    on_gpu = Inputs({n: x.cuda() for n, x in inputs.tensors.items()}, inputs.dy.cuda(), reverse=True)
    assert_agrees(on_gpu, tolerance=1e-4, backend="mamba_ssm")
