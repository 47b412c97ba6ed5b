"""The page of a sweep shows verdict, rule, tables, figures and every trial."""

from __future__ import annotations

from markupsafe import escape

from tests.parsed_page import HOSTILE, check_escaped
from tests.sweep_rows import row_of, rows_of, sweep_of
from tune.sweep_page import sweep_html
from tune.sweep_report import make_report


def test_the_page_has_verdict_rule_tables_and_every_trial() -> None:
    sweep = sweep_of(question="Does <sharing> help?")
    rows = rows_of({"resolution": [5.0, 5.1, 5.2], "none": [4.0, 4.11, 4.2]})
    rows.append(row_of({"model.sharing": "off"}, 0, 1.0, status="failed", reason="loss is not finite"))
    found = make_report(sweep, rows)
    page = sweep_html(sweep, rows, found, {"commit": "abc"})
    for text in (
        "Does &lt;sharing&gt; help?",
        found.verdict,
        "Preregistered before the first trial",
        "6 finished, 1 failed",
        "loss is not finite",
        "5.10 ± 0.10 [4.85, 5.35]",
        "SI-SDR in domain",
        "minus resolution",
        "-1.00 [-1.01, -0.98]",
        "0/0/8",
        "Pareto front",
        "commit: abc",
    ):
        assert text in page, text
    assert page.count("<img") == 2
    assert "<script" not in page


def test_names_stay_text() -> None:
    sweep = sweep_of(question=HOSTILE, seeds=[0])
    rows = [
        row_of({"model.sharing": "none"}, 0, 1.0),
        row_of({"model.sharing": "off"}, 0, 1.0, status="failed", reason=HOSTILE),
    ]
    check_escaped(sweep_html(sweep, rows, make_report(sweep, rows), {HOSTILE: HOSTILE}))


def test_a_rule_changed_afterwards_is_not_called_preregistered() -> None:
    rows = rows_of({"resolution": [5.0, 5.1, 5.2], "none": [4.0, 4.11, 4.2]})
    before = make_report(sweep_of(), rows).rule
    sweep = sweep_of(metric="estoi")
    found = make_report(sweep, rows, preregistered_rule=before)
    page = sweep_html(sweep, rows, found, {})
    assert "The rule was changed after the first trial" in page
    assert escape(before) in page
    assert "Preregistered before the first trial" not in page


def test_with_one_seed_it_gives_no_intervals() -> None:
    sweep = sweep_of(seeds=[0])
    rows = rows_of({"resolution": [5.0], "none": [4.0]})
    page = sweep_html(sweep, rows, make_report(sweep, rows), {})
    assert "no interval can be given" in page
    assert "5.00 (1 seed)" in page
    assert "±" not in page.split("Mean ±")[0]


def test_shares_of_blended_attention_are_shown() -> None:
    sweep = sweep_of(axes={"model.sharing": {"values": ["blend", "block"]}}, seeds=[0])
    rows = [
        row_of({"model.sharing": "blend"}, 0, 2.0, shared_shares={"level_1": 0.25, "level_2": 0.75}),
        row_of({"model.sharing": "block"}, 0, 2.0),
    ]
    page = sweep_html(sweep, rows, make_report(sweep, rows), {})
    assert "Blended attention" in page
    assert "0.250" in page


def test_a_distribution_is_drawn_by_value_and_stopped_trials_are_listed() -> None:
    axis = {"optimiser.learning_rate": {"log_uniform": [1e-4, 1e-2]}}
    sweep = sweep_of(axes=axis, seeds=[0], search={"kind": "random", "trials": 2})
    rows = [
        row_of({"optimiser.learning_rate": 1e-3}, 0, 2.0),
        row_of(
            {"optimiser.learning_rate": 1e-2}, 0, 0.0, status="stopped", reason="early, by asha", means={}
        ),
    ]
    page = sweep_html(sweep, rows, make_report(sweep, rows), {})
    assert "By value" in page
    assert "early, by asha" in page
    assert page.count("<img") == 3


def test_a_sweep_without_results_has_a_page() -> None:
    sweep = sweep_of()
    page = sweep_html(sweep, [], make_report(sweep, []), {})
    assert "No results yet" in page
