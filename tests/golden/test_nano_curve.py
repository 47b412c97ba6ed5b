"""The losses of twenty steps of the paper's recipe on `nano` against stored ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden_curve import assert_golden, run


@pytest.mark.full
def test_losses_of_one_process_equal_the_golden_curve(tmp_path: Path) -> None:
    assert_golden(run(tmp_path))
