"""The console line of a training step."""

from __future__ import annotations

from pipelines.training.run_log import progress_line


def test_failed_and_missing_clips_of_validation_are_shown_as_counts_if_there_are_any() -> None:
    values = {"valid_clips": 8.0, "valid_missing": 0.0, "valid_si_sdr_failed": 0.0, "valid_si_sdr": 3.3}
    assert progress_line(3, 160, values) == "step   3/160 · valid_clips 8 · valid_si_sdr 3.300"
    values |= {"valid_missing": 1.0, "valid_si_sdr_failed": 2.0}
    line = progress_line(3, 160, values)
    assert "valid_missing 1 · valid_si_sdr_failed 2" in line


def test_replaced_samples_are_shown_if_there_are_any() -> None:
    assert "3 samples missing and replaced" in progress_line(1, 2, {"total": 1.0, "replaced_samples": 3.0})
    assert "replaced" not in progress_line(1, 2, {"total": 1.0, "replaced_samples": 0.0})
