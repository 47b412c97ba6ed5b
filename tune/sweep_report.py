"""What a sweep's finished trials say: tables with intervals and paired tests, a winner if there is one.

How runs of one configuration differ is known from seeds alone, so every interval and test of a configuration
is over seeds. Tests over clips compare the very networks that were trained, and say nothing of others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.evaluation.clip_scores import NOISY
from pipelines.evaluation.metric_labels import label
from rwsa.statistics import holm
from tune.axis_tables import AxisTable, axis_table
from tune.results import TrialResult
from tune.scores import OverSeeds, abroad_of, deciding_of, home_of, mean_of_all, over_seeds, paired_by_seed
from tune.spaces import point_label
from tune.sweep_config import SweepConfig

SIGNIFICANT = 0.05


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A point of the sweep, over seeds.

    Attributes:
        label: the point in words.
        home, abroad: the deciding metric on the in-domain corpus, and over the others; None where a run has
            no score, or where there are no others.
        deciding: what decides: out of domain, if there is an out of domain.
        parameters, multiply_accumulates: of its network.
        smallest: whether no configuration of at most as many parameters is better (on the Pareto front).
    """

    label: str
    home: OverSeeds | None
    abroad: OverSeeds | None
    parameters: int | None
    multiply_accumulates: int | None
    deciding: OverSeeds | None
    smallest: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """All that follows from a sweep.

    Attributes:
        rule: by which a winner is found.
        stated: the rule that was stated before the first trial.
        verdict: what comes of it, in a sentence or two.
        winner: label of the winning configuration; None where there is none.
        configurations: in the order of the sweep.
        tables: of axes with values.
        corpora: the in-domain one first.
        noisy: corpus to metric, of the input.
        counts: status to number of trials.
    """

    rule: str
    stated: str
    verdict: str
    winner: str | None
    configurations: tuple[Configuration, ...]
    tables: tuple[AxisTable, ...]
    corpora: tuple[str, ...]
    noisy: Mapping[str, Mapping[str, float | None]]
    counts: Mapping[str, int]


def rule_of(sweep: SweepConfig) -> str:
    """By which the winner is found."""
    others = len(sweep.corpora) - 1
    where = f"averaged over the {others} out-of-domain corpora" if others else "on the one corpus there is"
    return (
        f"The winner is the configuration with the highest {label(sweep.metric)} {where}, mean over seeds,"
        f" if a t-test paired by seed tells it from every other one, with p < {SIGNIFICANT} after Holm's"
        " correction over these tests. Else there is none; and none with fewer than two seeds. Trials that"
        " were stopped early or failed do not count."
    )


def answer(sweep: SweepConfig, rows: Sequence[TrialResult], *, stated: str | None = None) -> Answer:
    """Draw the conclusions; rows of trials that have not finished are counted, and otherwise left out.

    Args:
        sweep: the sweep as it is now.
        rows: of its trials.
        stated: the rule before the first trial; by default the same as now.
    """
    rule = rule_of(sweep)
    finished = [row for row in rows if row.status == "finished"]
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.status] = counts.get(row.status, 0) + 1
    configurations = _with_front(_configurations(sweep, finished))
    winner, verdict = _verdict(sweep, rows, configurations)
    corpora = tuple(finished[0].means) if finished else ()
    return Answer(
        rule=rule,
        stated=stated or rule,
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
        counts=counts,
    )


def _by_point(rows: Sequence[TrialResult]) -> dict[str, list[TrialResult]]:
    found: dict[str, list[TrialResult]] = {}
    for row in rows:
        found.setdefault(point_label(row.point), []).append(row)
    return found


def _configurations(sweep: SweepConfig, finished: Sequence[TrialResult]) -> list[Configuration]:
    return [
        Configuration(
            label=label,
            home=over_seeds(home_of(row, sweep.metric) for row in rows),
            abroad=over_seeds(abroad_of(row, sweep.metric) for row in rows),
            deciding=over_seeds(deciding_of(row, sweep.metric) for row in rows),
            parameters=rows[0].parameters,
            multiply_accumulates=rows[0].multiply_accumulates,
        )
        for label, rows in _by_point(finished).items()
    ]


def _with_front(configurations: Sequence[Configuration]) -> tuple[Configuration, ...]:
    """Mark those that no other beats with at most as many parameters."""

    def beaten(one: Configuration) -> bool:
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
        replace(one, smallest=one.deciding is not None and one.parameters is not None and not beaten(one))
        for one in configurations
    )


def _verdict(
    sweep: SweepConfig, rows: Sequence[TrialResult], configurations: Sequence[Configuration]
) -> tuple[str | None, str]:
    """The winner, if any, and what to say."""
    finished = [row for row in rows if row.status == "finished"]
    waiting = sum(row.status == "waiting" for row in rows)
    if not any(one.deciding is not None for one in configurations):
        return None, "Nothing yet: no trial has finished."
    if waiting:
        return None, f"Not complete, so no winner yet: {waiting} of {len(rows)} trials are still to come."
    scores = {
        label: {row.seed: deciding_of(row, sweep.metric) for row in of}
        for label, of in _by_point(finished).items()
    }
    left_out = [label for label in _by_point(rows) if label not in scores]
    besides = f" Not compared, since none of it finished: {'; '.join(left_out)}." if left_out else ""
    if len(scores) == 1:
        return None, f"Only {next(iter(scores))} has finished; there is nothing to compare it with.{besides}"
    # Of others than these seeds, some configurations may have had the luckier ones.
    common = set.intersection(*(set(of) for of in scores.values()))
    means = {label: mean_of_all([of[seed] for seed in sorted(common)]) for label, of in scores.items()}
    if len(common) < 2:
        return None, (
            "No ranking and no winner: with one seed, nothing says how far runs of one configuration differ,"
            f" and no interval can be given. Differences below may be chance.{besides}"
        )
    known = {label: value for label, value in means.items() if value is not None}
    if len(known) < len(means):
        unknown = "; ".join(label for label in means if label not in known)
        return None, f"No winner: some runs of {unknown} have no score.{besides}"
    best = max(known, key=lambda label: known[label])
    tests = {label: paired_by_seed(scores[best], scores[label]) for label in known if label != best}
    corrected = holm({label: None if test is None else test.p for label, test in tests.items()})
    undecided = [
        label
        for label, p in corrected.items()
        if p is None or p >= SIGNIFICANT or (test := tests[label]) is None or test.difference <= 0
    ]
    said = f"{known[best]:.3f}"
    if not undecided:
        return best, f"{best} wins, with {said}: paired by seed it is told from every other one.{besides}"
    return None, (
        f"No winner: {best} has the highest mean, {said}, but these seeds do not tell it from"
        f" {len(undecided)} of {len(tests)} others ({'; '.join(undecided)}).{besides}"
    )
