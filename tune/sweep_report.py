"""Statistics of a sweep's finished trials: configurations over seeds, tables per axis, and the verdict.

Only seeds show how much runs of one configuration vary, so every interval and test of a configuration is over
seeds. Tests over clips compare the trained networks themselves and do not extend to other runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.evaluation.clip_scores import NOISY
from pipelines.evaluation.metric_labels import label
from rwsa.statistics import holm
from tune.axis_tables import AxisTable, OverSeeds, axis_table, over_seeds, paired_by_seed
from tune.search_space import point_label
from tune.sweep_config import SweepConfig
from tune.trial_results import TrialResult, mean_if_complete

SIGNIFICANCE_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A point of the search space, over seeds.

    Attributes:
        label: the point as text.
        in_domain, out_of_domain: the sweep's metric on the in-domain corpus and over the other corpora; None
            if a run has no score or there are no other corpora.
        deciding: score that ranks configurations: out of domain, or in domain if that is the only corpus.
        parameters, multiply_accumulates: of its network.
        on_pareto_front: whether no configuration with at most as many parameters has a better score.
    """

    label: str
    in_domain: OverSeeds | None
    out_of_domain: OverSeeds | None
    parameters: int | None
    multiply_accumulates: int | None
    deciding: OverSeeds | None
    on_pareto_front: bool = False


@dataclass(frozen=True, kw_only=True)
class SweepReport:
    """Everything that the report of a sweep shows.

    Attributes:
        rule: how the winner is determined.
        preregistered_rule: the rule saved before the first trial.
        verdict: one or two sentences.
        winner: label of the winning configuration; None if there is none.
        configurations: in the order of the sweep.
        tables: one per axis with values.
        corpora: in-domain first.
        noisy: corpus → metric → score of the noisy input.
        counts: status → number of trials.
    """

    rule: str
    preregistered_rule: str
    verdict: str
    winner: str | None
    configurations: tuple[Configuration, ...]
    tables: tuple[AxisTable, ...]
    corpora: tuple[str, ...]
    noisy: Mapping[str, Mapping[str, float | None]]
    counts: Mapping[str, int]


def winner_rule(sweep: SweepConfig) -> str:
    """How the winner is determined. A new wording goes with the previous one in `_earlier_wordings`."""
    others = len(sweep.corpora) - 1
    where = f"averaged over the {others} out-of-domain corpora"
    if others < 2:
        where = "on the out-of-domain corpus" if others else "on the only corpus"
    return (
        f"The winner is the configuration with the highest {label(sweep.metric)} {where} (mean over seeds),"
        " if a t-test paired by seed finds it better than every other configuration at"
        f" p < {SIGNIFICANCE_LEVEL} after Holm's correction over these tests. Otherwise there is no winner,"
        " nor with fewer than two seeds. Trials that were stopped early or failed do not count."
    )


def _earlier_wordings(sweep: SweepConfig) -> tuple[str, ...]:
    """The same rule as worded by earlier versions, which sweeps have saved in `rule.json`."""
    others = len(sweep.corpora) - 1
    where = f"averaged over the {others} out-of-domain corpora" if others else "on the one corpus there is"
    return (
        f"The winner is the configuration with the highest {label(sweep.metric)} {where}, mean over seeds,"
        " if a t-test paired by seed tells it from every other one, with p < 0.05 after Holm's"
        " correction over these tests. Else there is none; and none with fewer than two seeds. Trials that"
        " were stopped early or failed do not count.",
    )


def make_report(
    sweep: SweepConfig, results: Sequence[TrialResult], *, preregistered_rule: str | None = None
) -> SweepReport:
    """Report on a sweep; trials that have not finished are counted and otherwise left out.

    Args:
        sweep: its current configuration.
        results: of its trials.
        preregistered_rule: the rule saved before the first trial; by default the current one.
    """
    rule = winner_rule(sweep)
    if preregistered_rule is None or preregistered_rule in _earlier_wordings(sweep):
        preregistered_rule = rule
    finished = [row for row in results if row.status == "finished"]
    configurations = _with_pareto_front(_configurations(sweep, finished))
    winner, verdict = _verdict(sweep, results, configurations)
    corpora = tuple(finished[0].means) if finished else ()
    return SweepReport(
        rule=rule,
        preregistered_rule=preregistered_rule,
        verdict=verdict,
        winner=winner,
        configurations=configurations,
        tables=tuple(
            axis_table(sweep, name, finished)
            for name, axis in sweep.axes.items()
            if axis.range is None and finished
        ),
        corpora=corpora,
        noisy={name: finished[0].means[name][NOISY] for name in corpora},
        counts=Counter(row.status for row in results),
    )


def _by_point(results: Sequence[TrialResult]) -> dict[str, list[TrialResult]]:
    by_point: dict[str, list[TrialResult]] = {}
    for row in results:
        by_point.setdefault(point_label(row.point), []).append(row)
    return by_point


def _configurations(sweep: SweepConfig, finished: Sequence[TrialResult]) -> list[Configuration]:
    return [
        Configuration(
            label=label,
            in_domain=over_seeds(row.in_domain(sweep.metric) for row in rows),
            out_of_domain=over_seeds(row.out_of_domain(sweep.metric) for row in rows),
            deciding=over_seeds(row.deciding_score(sweep.metric) for row in rows),
            parameters=rows[0].parameters,
            multiply_accumulates=rows[0].multiply_accumulates,
        )
        for label, rows in _by_point(finished).items()
    ]


def _with_pareto_front(configurations: Sequence[Configuration]) -> tuple[Configuration, ...]:
    """Mark configurations that no other beats with at most as many parameters."""

    def dominated(one: Configuration) -> bool:
        assert one.deciding is not None
        assert one.parameters is not None
        return any(
            (other.parameters, -other.deciding.mean) != (one.parameters, -one.deciding.mean)
            and other.parameters <= one.parameters
            and other.deciding.mean >= one.deciding.mean
            for other in configurations
            if other.deciding is not None and other.parameters is not None
        )

    return tuple(
        replace(
            one,
            on_pareto_front=one.deciding is not None and one.parameters is not None and not dominated(one),
        )
        for one in configurations
    )


def _verdict(
    sweep: SweepConfig, results: Sequence[TrialResult], configurations: Sequence[Configuration]
) -> tuple[str | None, str]:
    """Label of the winner, if any, and the verdict."""
    finished = [row for row in results if row.status == "finished"]
    waiting = sum(row.status == "waiting" for row in results)
    if not any(one.deciding is not None for one in configurations):
        return None, "No results yet: no trial has finished."
    if waiting:
        return None, f"Incomplete, so no winner yet: {waiting} of {len(results)} trials have not ended."
    scores = {
        label: {row.seed: row.deciding_score(sweep.metric) for row in rows}
        for label, rows in _by_point(finished).items()
    }
    unfinished = [label for label in _by_point(results) if label not in scores]
    note = f" Not compared, as no trial of it finished: {'; '.join(unfinished)}." if unfinished else ""
    if len(scores) == 1:
        return None, f"Only {next(iter(scores))} has finished; there is nothing to compare it with.{note}"
    # Rank on common seeds only: a configuration with additional, luckier seeds would have an advantage.
    common = set.intersection(*(set(by_seed) for by_seed in scores.values()))
    if len(common) < 2:
        return None, (
            "No ranking and no winner: with one seed, the variation between runs of one configuration is"
            f" unknown, and no interval can be given. Differences below may be chance.{note}"
        )
    means = {
        label: mean_if_complete([by_seed[seed] for seed in sorted(common)])
        for label, by_seed in scores.items()
    }
    known = {label: value for label, value in means.items() if value is not None}
    if len(known) < len(means):
        unknown = "; ".join(label for label in means if label not in known)
        return None, f"No winner: some runs of {unknown} have no score.{note}"
    best = max(known, key=lambda label: known[label])
    tests = {label: paired_by_seed(scores[best], scores[label]) for label in known if label != best}
    corrected = holm({label: None if test is None else test.p for label, test in tests.items()})
    undecided = [
        label
        for label, p in corrected.items()
        if p is None or p >= SIGNIFICANCE_LEVEL or (test := tests[label]) is None or test.difference <= 0
    ]
    score = f"{known[best]:.3f}"
    if not undecided:
        return best, f"{best} wins with {score}: significantly better than every other one, by seeds.{note}"
    return None, (
        f"No winner: {best} has the highest mean, {score}, but these seeds do not show it to be better than"
        f" {len(undecided)} of {len(tests)} others ({'; '.join(undecided)}).{note}"
    )
