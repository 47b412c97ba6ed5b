"""The compiled loops' vectors on other processors: cross-compiled, and inspected as assembly."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any
from unittest.mock import patch

import pytest
from llvmlite import binding as llvm
from numba import types
from numba.core.codegen import CPUCodeLibrary

from rwsa.kernels.simd import LANES, broadcast, exp2, load, maximum, part_of_kernel, softplus, store

LINUX_X86, LINUX_ARM, MACOS_ARM = "x86_64-linux-gnu", "aarch64-linux-gnu", "arm64-apple-macosx"
FLOATS = types.Array(types.float32, 1, "C")


def _kernel(x, y, out):  # type: ignore[no-untyped-def]
    for i in range(0, out.size, LANES):
        product = softplus(load(x, i)) * broadcast(y, i) + exp2(load(y, i))
        store(out, i, maximum(product, load(out, i)))


@pytest.fixture(scope="module")
def module() -> str:
    """The kernel for LLVM, before it is optimised for a processor."""
    texts: list[str] = []
    optimise = CPUCodeLibrary._optimize_final_module

    def record(library: Any) -> None:
        texts.append(str(library._final_module))
        optimise(library)

    with patch.object(CPUCodeLibrary, "_optimize_final_module", record):
        part_of_kernel(cache=False)(_kernel).compile((FLOATS, FLOATS, FLOATS))
    return max((text for text in texts if "_kernel" in text), key=len)


def assembly(module: str, triple: str, cpu: str) -> str:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3)
    body = re.sub(r"target (triple|datalayout) = .*\n", "", module)
    parsed = llvm.parse_assembly(
        f'target datalayout = "{machine.target_data}"\ntarget triple = "{triple}"\n{body}'
    )
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(parsed, builder)
    text: str = machine.emit_assembly(parsed)
    return text


@pytest.mark.parametrize(
    ("triple", "cpu", "multiply_add", "scalar"),
    [
        (LINUX_X86, "skylake-avx512", r"vfn?m(add|sub)\d+ps\t.*%zmm", r"vfn?m(add|sub)\d+ss|exp2?f|log"),
        (LINUX_X86, "haswell", r"vfn?m(add|sub)\d+ps\t.*%ymm", r"vfn?m(add|sub)\d+ss|%zmm|exp2?f|log"),
        (LINUX_ARM, "neoverse-n1", r"fml[as]\t.*v\d+\.4s", r"fn?m(add|sub)\ts|exp2?f|log"),
        (MACOS_ARM, "apple-m1", r"fml[as](\.4s)?\t.*v\d+", r"fn?m(add|sub)\ts|exp2?f|log"),
    ],
)
def test_vectors_fill_the_registers_of_each_processor(
    module: str, triple: str, cpu: str, multiply_add: str, scalar: str
) -> None:
    lines = [line.strip() for line in assembly(module, triple, cpu).splitlines()]
    instructions = [line for line in lines if not line.startswith((".", "#", "_", "/"))]
    # Of the polynomials of exp2 (twice) and softplus, on at least one register per vector.
    assert sum(bool(re.search(multiply_add, line)) for line in instructions) >= 15
    assert [line for line in instructions if re.search(scalar, line)] == []


def test_kernels_run_with_the_features_of_an_older_processor() -> None:
    if not re.match(r"x86_64|i686", llvm.get_process_triple()):
        pytest.skip("the processor is not an x86")
    program = """
import numpy as np
from rwsa.kernels.scan_loops import exp2_of
x = np.linspace(-20, 20, 64, dtype=np.float32)
out = np.empty_like(x)
exp2_of(x, out)
np.testing.assert_allclose(out, np.exp2(x), rtol=3e-7)
(code,) = exp2_of.inspect_asm().values()
print("ymm" in code or "zmm" in code)
"""
    older = os.environ | {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run([sys.executable, "-c", program], env=older, check=True, stdout=subprocess.PIPE)
    assert done.stdout == b"False\n"
