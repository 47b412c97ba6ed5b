"""Twenty steps of the paper's recipe on `nano` give the stored losses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden_curve import assert_golden, run


@pytest.mark.full
def test_alone_they_are_the_golden_ones(tmp_path: Path) -> None:
    assert_golden(run(tmp_path))
