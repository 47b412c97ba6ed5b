"""Progress lines: what failed or was missing in validation is told where there is any, as a count."""

from __future__ import annotations

from pipelines.core.progress import progress_line


def test_trouble_in_validation_is_told_as_a_count_and_only_where_there_is_any() -> None:
    values = {"valid_clips": 8.0, "valid_missing": 0.0, "valid_si_sdr_failed": 0.0, "valid_si_sdr": 3.3}
    assert progress_line(3, 160, values) == "step   3/160 · valid_clips 8 · valid_si_sdr 3.300"
    values |= {"valid_missing": 1.0, "valid_si_sdr_failed": 2.0}
    line = progress_line(3, 160, values)
    assert "valid_missing 1 · valid_si_sdr_failed 2" in line
