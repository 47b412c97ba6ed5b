"""The Triton scan: its cases in Triton's interpreter and, where available, on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from rwsa.errors import InputError
from rwsa.kernels import scan
from rwsa.kernels.scan import choose_backend, missing_backends, selective_scan
from tests.scan_inputs import NAMES, draw

CHECKOUT = Path(__file__).parents[3]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
installed = pytest.mark.skipif(not find_spec("triton"), reason="Triton is not installed: no wheel for here")


def run_cases(**environment: str) -> str:
    """Run `triton_cases.py` in a separate process and return its output."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "CUDA_VISIBLE_DEVICES")}
    inherited["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # importing them takes a second
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/unit/kernels/triton_cases.py",
    ]
    done = subprocess.run(
        command, cwd=CHECKOUT, env=inherited | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@installed
@pytest.mark.full
def test_all_cases_pass_in_the_interpreter() -> None:
    printed = run_cases(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
    assert " passed" in printed
    assert "skipped" not in printed


@installed
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_all_cases_pass_on_the_gpu() -> None:
    assert " passed" in run_cases(CUDA_VISIBLE_DEVICES=os.environ.get("CUDA_VISIBLE_DEVICES", "0"))


class NoDevice:
    """The part of a driver that Triton needs to compile without launching."""

    def get_current_target(self) -> object:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return -1  # kernels are cached by device; these must not be used for a real one

    def get_current_stream(self, device: int) -> int:
        return 0


@installed
@pytest.mark.full
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled then")
def test_kernels_compile_for_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Compile to machine code for compute capability 9.0, with the arguments of a scan under autocast.

    Two steps unrolled instead of four: the code is the same and half as long.
    """
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    from rwsa.kernels import scan_triton as triton_scan

    compiled, run = [], JITFunction.run

    def compile_only(kernel: Any, *arguments: Any, warmup: bool, **options: Any) -> None:
        compiled.append(run(kernel, *arguments, warmup=True, **options))

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr(triton_scan, "UNROLLED_STEPS", 2)
    tensors = draw(2, 3, length=9, channels=16).tensors
    leaves = {n: (x.bfloat16() if n in "uBCz" else x).requires_grad_() for n, x in tensors.items()}
    monkeypatch.setattr(type(driver), "active", NoDevice())
    triton_scan.selective_scan_triton(*(leaves[name] for name in NAMES), reverse=True).sum().backward()
    assert [kernel.metadata.name for kernel in compiled] == ["scan_forward", "scan_backward"]
    assert all(kernel.asm["cubin"] for kernel in compiled)


@installed
def test_requested_without_a_gpu_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(InputError, match="'triton' is not available: needs a CUDA device, not cpu"):
        selective_scan(**draw(1, length=2, channels=4).tensors, backend="triton")


def test_requested_without_triton_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_INSTALLED", {"selective_scan_cuda"})
    with pytest.raises(InputError, match="'triton' is not available: Triton is not installed"):
        selective_scan(**draw(1, length=2, channels=4).tensors, backend="triton")


def test_without_a_compiler_for_its_launcher_it_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_INSTALLED", {"triton"})
    monkeypatch.setattr(scan, "_CAN_BUILD", False)
    assert missing_backends(CUDA)["triton"].startswith("Triton needs gcc, clang or CC")
    assert choose_backend(CUDA) == "reference"


def test_on_a_gpu_the_plain_loop_runs_only_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 170,000 kernels and more than 100 GB for a step of xs."""
    monkeypatch.setattr(scan, "_INSTALLED", {"triton"})
    monkeypatch.setattr(scan, "_CAN_BUILD", False)
    with pytest.raises(
        InputError, match=r"no fast scan for this GPU: triton: .* gcc.* mamba_ssm: .*rwsa\[cuda\]"
    ):
        scan.resolve_backend(CUDA)
    assert scan.resolve_backend(CUDA, "reference") == "reference"
    with scan.use_backend("reference"):
        assert scan.resolve_backend(CUDA) == "reference"


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [
        ({"triton", "selective_scan_cuda"}, "triton"),
        ({"selective_scan_cuda"}, "mamba_ssm"),
        (set(), "reference"),
    ],
)
def test_auto_prefers_triton_to_mamba_ssm(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], chosen: str
) -> None:
    monkeypatch.setattr(scan, "_INSTALLED", installed)
    monkeypatch.setattr(scan, "_CAN_BUILD", True)
    assert choose_backend(CUDA) == chosen


@pytest.mark.parametrize("interpreted", ["0", "1"])
def test_auto_uses_triton_on_cuda_only(monkeypatch: pytest.MonkeyPatch, interpreted: str) -> None:
    monkeypatch.setattr(scan, "_INSTALLED", {"triton"})
    monkeypatch.setenv("TRITON_INTERPRET", interpreted)
    assert ("triton" in missing_backends(CPU)) is (interpreted == "0")
    assert choose_backend(CPU) == "cpu"
    assert choose_backend(torch.device("meta")) == "reference"
