"""Every score that MLflow holds, put together by corpora: systems at home (in-domain) and abroad."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlflow.entities import Run

from pipelines.core.tracking import Tracker
from pipelines.evaluation.results import CHILD_KIND
from rwsa.metrics import TABLE1_METRICS
from rwsa.statistics import rank_correlation

_RUNS_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class Score:
    """Means of one system on one corpus.

    Attributes:
        system: what was scored: weights by their hash, outputs by their folder.
        name: for people.
        in_domain: the corpus that the evaluation took for the in-domain one.
        data: hash of the clips; scores compare on the same ones alone.
        code: of the scoring.
        means, noisy: by metric; of the system and of the input.
    """

    system: str
    name: str
    corpus: str
    in_domain: str
    data: str
    code: str
    clips: int
    means: dict[str, float]
    noisy: dict[str, float]

    @property
    def whole(self) -> bool:
        """Whether no metric is missing."""
        return set(TABLE1_METRICS) <= set(self.means) and set(TABLE1_METRICS) <= set(self.noisy)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A system at home and abroad, in one metric; `best` where no other is at least as good at both."""

    name: str
    home: float
    abroad: float
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One metric on one pair of corpora.

    Attributes:
        key: the same for panels of the same systems on the same clips.
        home, abroad: the corpora, with their numbers of clips.
        points: of every system that was scored on both; in one order in all panels of a key.
        noisy: of the input.
        correlation: Spearman's, over systems; None where they are too few.
    """

    key: str
    metric: str
    home: str
    abroad: str
    points: tuple[Point, ...]
    noisy: Point
    correlation: float | None


def read_scores(tracker: Tracker) -> list[Score]:
    """All scores of the experiment, of each system, clips and scoring code the newest."""
    found: dict[tuple[str, ...], Score] = {}
    token: str | None = None
    while True:
        runs = tracker.client.search_runs(
            [tracker.experiment_id],
            f"tags.`rwsa.kind` = '{CHILD_KIND}' AND attributes.status = 'FINISHED'",
            max_results=_RUNS_AT_ONCE,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        for one in map(_score, runs):
            found.setdefault((one.system, one.corpus, one.in_domain, one.data, one.code), one)
        token = runs.token
        if not token:
            return list(found.values())


def _score(run: Run) -> Score:
    tags, metrics = run.data.tags, run.data.metrics
    corpus = tags["rwsa.corpus"]
    return Score(
        system=tags.get("weights_sha256") or run.data.params["outputs"],
        name=tags["rwsa.system"],
        corpus=corpus,
        in_domain=tags["rwsa.in_domain_corpus"],
        data=tags[f"data_sha256.{corpus}"],
        code=tags["rwsa.scoring_code"],
        clips=int(metrics["clips"]),
        means={name: metrics[name] for name in TABLE1_METRICS if name in metrics},
        noisy={name: metrics[f"noisy.{name}"] for name in TABLE1_METRICS if f"noisy.{name}" in metrics},
    )


def panels(scores: Iterable[Score]) -> list[Panel]:
    """A panel for each metric and pair of corpora that two systems were scored on, in the order met."""
    # With a metric missing, systems of one pair would differ from panel to panel.
    scores = [one for one in scores if one.whole]
    homes = dict.fromkeys(_where(one) for one in scores if one.corpus == one.in_domain)
    found: list[Panel] = []
    for home in homes:
        at_home = _by_system(scores, home)
        abroads = dict.fromkeys(
            _where(one)
            for one in scores
            if one.in_domain == home[0] and one.corpus != home[0] and one.code == home[2]
        )
        for abroad in abroads:
            both = [
                (at_home[system], other)
                for system, other in _by_system(scores, abroad).items()
                if system in at_home
            ]
            if len(both) > 1:
                found += [_panel(metric, both) for metric in TABLE1_METRICS]
    return found


def _where(one: Score) -> tuple[str, str, str]:
    return one.corpus, one.data, one.code


def _by_system(scores: Sequence[Score], where: tuple[str, str, str]) -> dict[str, Score]:
    return {one.system: one for one in scores if _where(one) == where}


def _panel(metric: str, both: Sequence[tuple[Score, Score]]) -> Panel:
    pairs = [(one.means[metric], other.means[metric]) for one, other in both]
    first, second = both[0]
    return Panel(
        key=" ".join((*_where(first), *_where(second))),
        metric=metric,
        home=f"{first.corpus} ({first.clips} clips)",
        abroad=f"{second.corpus} ({second.clips} clips)",
        points=tuple(
            Point(name=one.name, home=home, abroad=abroad, best=_is_best((home, abroad), pairs))
            for (one, _), (home, abroad) in zip(both, pairs, strict=True)
        ),
        noisy=Point(name="noisy", home=first.noisy[metric], abroad=second.noisy[metric]),
        correlation=rank_correlation(*zip(*pairs, strict=True)),
    )


def _is_best(point: tuple[float, float], others: Sequence[tuple[float, float]]) -> bool:
    """Whether no other is at least as good at both, and another point."""
    return not any(a >= point[0] and b >= point[1] and (a, b) != point for a, b in others)
