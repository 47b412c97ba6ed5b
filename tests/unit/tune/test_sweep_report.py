"""Reports of sweeps: a winner only if seeds show one, unfinished trials left out, rules read on."""

from __future__ import annotations

import pytest

from rwsa.statistics import paired_difference
from tests.sweep_rows import row_of, rows_of, sweep_of
from tune.sweep_report import make_report, winner_rule


def test_a_winner_is_significantly_better_than_every_other() -> None:
    rows = rows_of({"resolution": [5.0, 5.1, 5.2], "none": [4.0, 4.11, 4.2], "off": [3.0, 3.1, 3.21]})
    report = make_report(sweep_of(), rows)
    assert report.winner == "sharing resolution"
    assert "sharing resolution wins with 3.600" in report.verdict
    (table,) = report.tables
    assert (table.axis, table.baseline, table.over) == ("model.sharing", "resolution", "")
    base, none, off = table.rows
    assert base.against is None
    assert base.clips == {}
    # Out of domain is the mean over the corpora after the first: 1.5 less than in domain.
    assert base.in_domain is not None
    assert base.out_of_domain is not None
    assert (base.in_domain.mean, base.out_of_domain.mean, base.out_of_domain.std) == pytest.approx(
        (5.1, 3.6, 0.1)
    )
    expected = paired_difference([2.5, 2.61, 2.7], [3.5, 3.6, 3.7])
    assert none.against is not None
    assert off.against is not None
    assert expected is not None
    assert none.against.difference == pytest.approx(expected.difference)
    # Holm: the larger of two p-values stays, unless the smaller one's double is larger.
    ps = sorted([none.against.p, off.against.p])
    assert {none.against.p_holm, off.against.p_holm} == {2 * ps[0], max(ps[1], 2 * ps[0])}
    assert none.clips["near"].losses == 8


def test_there_is_no_winner_without_a_significant_difference() -> None:
    rows = rows_of({"resolution": [5.0, 4.0, 6.0], "none": [4.9, 5.0, 4.8], "off": [1.0, 1.1, 1.2]})
    report = make_report(sweep_of(), rows)
    assert report.winner is None
    assert report.verdict.startswith("No winner: sharing resolution has the highest mean, 3.500")
    assert "1 of 2 others (sharing none)" in report.verdict


def test_configurations_are_ranked_on_common_seeds() -> None:
    # Over all its seeds the first would lead, as its additional seeds are luckier.
    rows = rows_of({"resolution": [5.0, 5.001, 9.0, 9.0], "none": [5.5, 5.502]})
    report = make_report(sweep_of(), rows)
    assert report.winner == "sharing none"
    assert "4.001" in report.verdict


def test_no_winner_before_all_trials_have_ended_and_failed_configurations_are_named() -> None:
    rows = rows_of({"resolution": [5.0, 5.1, 5.2], "none": [4.0, 4.11, 4.2]})
    off = [row_of({"model.sharing": "off"}, seed, 9.0, status="waiting", means={}) for seed in range(3)]
    report = make_report(sweep_of(), [*rows, *off])
    assert report.winner is None
    assert report.verdict == "Incomplete, so no winner yet: 3 of 9 trials have not ended."
    off = [row_of({"model.sharing": "off"}, seed, 9.0, status="failed", means={}) for seed in range(3)]
    report = make_report(sweep_of(), [*rows, *off])
    assert report.winner == "sharing resolution"
    assert "Not compared, as no trial of it finished: sharing off." in report.verdict


def test_an_in_domain_score_does_not_replace_a_missing_out_of_domain_score() -> None:
    rows = rows_of({"resolution": [5.0, 5.1], "none": [4.0, 4.1]})
    rows[0].means["far"]["enhanced"]["si_sdr"] = None
    report = make_report(sweep_of(seeds=[0, 1]), rows)
    assert report.winner is None
    assert report.configurations[0].in_domain is not None
    assert report.configurations[0].deciding is None
    assert "some runs of sharing resolution have no score" in report.verdict


def test_clips_are_paired_by_id() -> None:
    rows = rows_of({"resolution": [5.0], "none": [4.0]})
    clips = rows[1].clips["near"]
    for values in {id(values): values for values in clips.values()}.values():
        values.reverse()
    (table,) = make_report(sweep_of(seeds=[0]), rows).tables
    assert (table.rows[1].clips["near"].losses, table.rows[1].clips["near"].pairs) == (8, 8)


def test_one_seed_gives_no_ranking() -> None:
    report = make_report(sweep_of(seeds=[0]), rows_of({"resolution": [5.0], "none": [1.0]}))
    assert report.winner is None
    assert report.verdict.startswith("No ranking and no winner: with one seed")
    for one in report.configurations:
        assert one.out_of_domain is not None
        assert (one.out_of_domain.std, one.out_of_domain.interval) == (None, None)
    assert report.tables[0].rows[1].against is not None
    assert report.tables[0].rows[1].against.p is None


def test_unfinished_trials_are_counted_and_in_no_mean() -> None:
    rows = rows_of({"resolution": [5.0, 5.1], "none": [4.0, 4.1]})
    stopped = row_of({"model.sharing": "none"}, 2, 99.0, status="stopped", reason="early, by asha")
    failed = row_of({"model.sharing": "off"}, 0, 99.0, status="failed", reason="not finite")
    report = make_report(sweep_of(), [*rows, stopped, failed])
    assert report.counts == {"finished": 4, "stopped": 1, "failed": 1}
    assert [one.label for one in report.configurations] == ["sharing resolution", "sharing none"]
    assert [row.value for row in report.tables[0].rows] == ["resolution", "none"]
    assert report.configurations[1].in_domain is not None
    assert report.configurations[1].in_domain.mean == pytest.approx(4.05)


def test_nothing_finished_and_one_configuration_alone() -> None:
    assert make_report(sweep_of(), []).verdict == "No results yet: no trial has finished."
    alone = make_report(sweep_of(), rows_of({"none": [1.0, 2.0]}))
    assert alone.winner is None
    assert "nothing to compare it with" in alone.verdict


def test_the_pareto_front_has_networks_that_no_smaller_one_beats() -> None:
    rows = [
        row_of({"size": name}, 0, score, parameters=parameters)
        for name, score, parameters in (("s", 2.0, 100), ("m", 1.5, 200), ("l", 3.0, 300), ("xl", 3.0, 400))
    ]
    named = {name: {} for name in ("s", "m", "l", "xl")}
    report = make_report(sweep_of(axes={"size": {"named": named}}, seeds=[0]), rows)
    assert {one.label: one.on_pareto_front for one in report.configurations} == {
        "size s": True,
        "size m": False,
        "size l": True,
        "size xl": False,
    }


def test_an_axis_is_compared_at_settings_that_all_its_values_have() -> None:
    axes = {"a": {"values": [1, 2]}, "b": {"values": ["x", "y"]}}
    rows = [
        row_of({"a": a, "b": b}, seed, 10.0 * a + (b == "y") + 0.1 * seed)
        for a in (1, 2)
        for b in ("x", "y")
        for seed in (0, 1)
    ]
    of_a, of_b = make_report(sweep_of(axes=axes, seeds=[0, 1]), rows).tables
    assert of_a.over == "means over 2 settings of the other axes"
    assert of_a.rows[1].against is not None
    assert of_a.rows[1].against.difference == pytest.approx(10.0)
    assert of_b.rows[1].against is not None
    assert of_b.rows[1].against.difference == pytest.approx(1.0)
    # A star varies one axis at a time, with the others at their baselines.
    star = [row for row in rows if row.point != {"a": 2, "b": "y"}]
    of_a, of_b = make_report(sweep_of(axes=axes, seeds=[0, 1], search={"kind": "star"}), star).tables
    assert (of_a.over, of_b.over) == ("at b x", "at a 1")
    assert of_b.rows[1].against is not None
    assert of_b.rows[1].against.difference == pytest.approx(1.0)


def test_the_rule_names_the_corpora() -> None:
    assert "averaged over the 2 out-of-domain corpora" in winner_rule(sweep_of())
    assert "on the only corpus" in winner_rule(sweep_of(corpora=["near.yaml"]))
