"""Scores of all evaluations in MLflow, paired by corpora: systems in-domain and out-of-domain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlflow.entities import Run

from pipelines.core.mlflow_guard import tracked_key
from pipelines.core.tracking import Tracker
from pipelines.evaluation.results import CHILD_KIND
from rwsa.metrics import TABLE1_METRICS
from rwsa.statistics import rank_correlation

_RUNS_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class SystemScore:
    """Means of one system on one corpus.

    Attributes:
        system: hash of the weights, or folder of the outputs.
        name: to show.
        in_domain: the in-domain corpus of the evaluation.
        data: hash of the clips; only scores on the same clips are compared.
        code: fingerprint of the scoring code; only scores by the same code are compared.
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
    def complete(self) -> bool:
        """Whether no metric is missing."""
        return set(TABLE1_METRICS) <= set(self.means) and set(TABLE1_METRICS) <= set(self.noisy)


@dataclass(frozen=True, kw_only=True)
class TradeOffPoint:
    """A system's means in one metric; `best` if no other system is at least as good in both domains."""

    name: str
    in_domain: float
    out_of_domain: float
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class TradeOffPanel:
    """One metric on one pair of corpora.

    Attributes:
        key: shared by the panels of one pair of corpora.
        in_domain, out_of_domain: the corpora, with their numbers of clips.
        points: one per system with scores on both; in the same order in all panels of a key.
        noisy: the point of the input.
        correlation: Spearman's, over systems; None for too few.
    """

    key: str
    metric: str
    in_domain: str
    out_of_domain: str
    points: tuple[TradeOffPoint, ...]
    noisy: TradeOffPoint
    correlation: float | None


def read_scores(tracker: Tracker) -> list[SystemScore]:
    """The newest score of each system, clips and scoring code in the experiment.

    Runs that lack a tag or metric of an evaluation are reported and left out.
    """
    incomplete = 0
    found: dict[tuple[str, ...], SystemScore] = {}
    token: str | None = None
    while True:
        runs = tracker.client.search_runs(
            [tracker.experiment_id],
            f"tags.`rwsa.kind` = '{CHILD_KIND}' AND attributes.status = 'FINISHED'",
            max_results=_RUNS_AT_ONCE,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        for run in runs:
            try:
                one = _score(run)
            except (KeyError, ValueError, OverflowError):
                incomplete += 1
                continue
            found.setdefault((one.system, one.corpus, one.in_domain, one.data, one.code), one)
        token = runs.token
        if not token:
            if incomplete:
                print(f"left out {incomplete} incomplete runs of experiment '{tracker.storage.experiment}'")
            return list(found.values())


def _score(run: Run) -> SystemScore:
    tags, metrics = run.data.tags, run.data.metrics
    corpus = tags["rwsa.corpus"]
    return SystemScore(
        system=tags.get("weights_sha256") or run.data.params["outputs"],
        name=tags["rwsa.system"],
        corpus=corpus,
        in_domain=tags["rwsa.in_domain_corpus"],
        data=tags[tracked_key(f"data_sha256.{corpus}")],
        code=tags["rwsa.scoring_code"],
        clips=int(metrics["clips"]),
        means={name: metrics[name] for name in TABLE1_METRICS if name in metrics},
        noisy={name: metrics[f"noisy.{name}"] for name in TABLE1_METRICS if f"noisy.{name}" in metrics},
    )


def trade_off_panels(scores: Iterable[SystemScore]) -> list[TradeOffPanel]:
    """A panel for each metric and pair of corpora with scores of at least two systems, in the order read."""
    # With a metric missing, systems of one pair would differ from panel to panel.
    scores = [one for one in scores if one.complete]
    in_domains = dict.fromkeys(_clips_of(one) for one in scores if one.corpus == one.in_domain)
    panels: list[TradeOffPanel] = []
    for in_domain in in_domains:
        corpus, _, code = in_domain
        trained_there = [one for one in scores if one.in_domain == corpus]
        by_system = _by_system(trained_there, in_domain)
        out_of_domains = dict.fromkeys(
            _clips_of(one) for one in trained_there if one.corpus != corpus and one.code == code
        )
        for out_of_domain in out_of_domains:
            both = [
                (by_system[system], other)
                for system, other in _by_system(trained_there, out_of_domain).items()
                if system in by_system
            ]
            if len(both) > 1:
                panels += [_panel(metric, both) for metric in TABLE1_METRICS]
    return panels


def _clips_of(one: SystemScore) -> tuple[str, str, str]:
    return one.corpus, one.data, one.code


def _by_system(scores: Sequence[SystemScore], clips: tuple[str, str, str]) -> dict[str, SystemScore]:
    return {one.system: one for one in scores if _clips_of(one) == clips}


def _panel(metric: str, both: Sequence[tuple[SystemScore, SystemScore]]) -> TradeOffPanel:
    pairs = [(one.means[metric], other.means[metric]) for one, other in both]
    first, second = both[0]
    return TradeOffPanel(
        key=" ".join((*_clips_of(first), *_clips_of(second))),
        metric=metric,
        in_domain=f"{first.corpus} ({first.clips} clips)",
        out_of_domain=f"{second.corpus} ({second.clips} clips)",
        points=tuple(
            TradeOffPoint(name=one.name, in_domain=pair[0], out_of_domain=pair[1], best=_is_best(pair, pairs))
            for (one, _), pair in zip(both, pairs, strict=True)
        ),
        noisy=TradeOffPoint(name="noisy", in_domain=first.noisy[metric], out_of_domain=second.noisy[metric]),
        correlation=rank_correlation(*zip(*pairs, strict=True)),
    )


def _is_best(point: tuple[float, float], others: Sequence[tuple[float, float]]) -> bool:
    """Whether no other point is at least as good in both domains."""
    return not any(a >= point[0] and b >= point[1] and (a, b) != point for a, b in others)
