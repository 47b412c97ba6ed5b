"""Operators and bytes of a step of xs on a GPU, counted on `meta` tensors: they must not grow unnoticed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.benchmarks.step_counts import count_step


@pytest.mark.skipif(not find_spec("triton"), reason="Triton is not installed: no wheel for here")
def test_a_step_of_xs_at_8_segments() -> None:
    counts = count_step("xs", 8)
    # Lower them when they fall. The aim is 3,000 operators and 140 GB, by fused kernels.
    assert counts.operators <= 5_150
    assert counts.moved <= 256e9
    assert counts.saved <= 33.5e9
