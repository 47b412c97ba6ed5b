"""An evaluation in MLflow's own terms: test sets as datasets, and scores of models in and out of domain.

With them MLflow's pages filter runs by corpus and sort models by their scores on any corpus; aliases of the
registry name the best versions.
"""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Metric

from pipelines.core.datasets import LoggedDataset, dataset_name, digest_of, short_digest, snr_range
from pipelines.core.logged_models import (
    MODEL_FOLDER,
    WEIGHTS_TAG,
    LoggedFiles,
    find_model,
    log_model,
    model_params,
)
from pipelines.core.model_registry import MODEL_ID_TAG, write_model
from pipelines.core.tracking import TrackedRun, Tracker
from pipelines.evaluation.results import CorpusScores, EvaluationSummary
from pipelines.evaluation.systems import System
from rwsa.files import location
from rwsa.metrics import TABLE1_METRICS

# The metric that decides the aliases of the registry: the first of the paper's table.
DECIDING = "pesq"
_IN, _OUT = "in_domain", "out_of_domain"
BEST_ALIASES = {_IN: "best-in-domain", _OUT: "best-out-of-domain"}


def corpus_dataset(corpus: CorpusScores) -> LoggedDataset:
    """The scored clips of a corpus; the digest is the hash of their content."""
    clips = [clip.clip_id for clip in corpus.clips]
    snr_db = [clip.input_snr_db for clip in corpus.clips if clip.input_snr_db is not None]
    speakers = {clip.speaker for clip in corpus.clips if clip.speaker is not None}
    return LoggedDataset(
        name=dataset_name(corpus.name, "test"),
        digest=digest_of(clips) if corpus.data_sha256 is None else short_digest(corpus.data_sha256),
        source=corpus.card or corpus.name,
        context="test",
        profile={
            "examples": len(clips),
            "hours": round(math.fsum(clip.seconds for clip in corpus.clips) / 3600, 4),
            "speakers": len(speakers) or None,
            **snr_range(snr_db),
        },
    )


def log_domains(
    run: TrackedRun,
    summary: EvaluationSummary,
    system: System,
    model_id: str,
    datasets: Mapping[str, LoggedDataset],
) -> None:
    """Log a model's mean scores in domain, and over all other corpora, each corpus counting once."""
    in_domain = summary.in_domain(system.configuration)
    groups = {
        _IN: [corpus for corpus in summary.corpora if corpus.name == in_domain],
        _OUT: [corpus for corpus in summary.corpora if corpus.name != in_domain],
    }
    for domain, corpora in groups.items():
        means = [corpus.means(system.name) for corpus in corpora]
        values = {
            f"{domain}.{metric}": math.fsum(found) / len(found)
            for metric in TABLE1_METRICS
            if len(found := [mean for one in means if (mean := one[metric]) is not None]) == len(corpora) > 0
        }
        if values:
            run.log_metrics(0, values, model_id=model_id, dataset=_union([datasets[c.name] for c in corpora]))


def _union(datasets: Sequence[LoggedDataset]) -> LoggedDataset:
    """Several test sets as one dataset."""
    if len(datasets) == 1:
        return datasets[0]
    return LoggedDataset(
        name=dataset_name([one.name.removesuffix(" test") for one in datasets], "test"),
        digest=digest_of(sorted([one.name, one.digest] for one in datasets)),
        source="",
        context="test",
        profile={},
    )


def logged_models(tracker: Tracker, summary: EvaluationSummary) -> dict[str, str]:
    """System -> id of the logged model of its weights; weights that MLflow does not have are logged."""
    found = {}
    for system in summary.models:
        model = find_model(tracker.client, tracker.experiment_id, system.sha256)
        if model is None:
            about = LoggedFiles(
                name=system.name,
                sha256=system.sha256,
                tags={"weights": system.weights},
                params=model_params(system.config),
            )
            with tempfile.TemporaryDirectory(prefix="rwsa-model-") as folder:
                files = Path(folder) / MODEL_FOLDER
                write_model(files, location(system.weights), check=False)
                model = log_model(tracker.client, tracker.experiment_id, about, files)
        found[system.name] = str(model.model_id)
    return found


def point_aliases(tracker: Tracker, summary: EvaluationSummary) -> None:
    """Move the aliases of all registered models of which a version was scored."""
    hashes = {system.sha256 for system in summary.models}
    names = set[str]()
    for sha256 in hashes:
        found = tracker.client.search_model_versions(f"tags.`{WEIGHTS_TAG}` = '{sha256}'")
        names |= {version.name for version in found}
    for name in sorted(names):
        point_best_aliases(tracker.client, name)


def point_best_aliases(client: MlflowClient, name: str) -> dict[str, str]:
    """Move the aliases of the best versions of a registered model; alias -> version, empty without scores.

    Only versions scored on the same clips are compared: on those clips that most versions were scored on.
    """
    versions = {
        str(version.version): client.get_logged_model(version.tags[MODEL_ID_TAG])
        for version in client.search_model_versions(f"name = '{name}'")
        if MODEL_ID_TAG in version.tags
    }
    moved = {}
    for domain, alias in BEST_ALIASES.items():
        if (best := _best(versions, f"{domain}.{DECIDING}")) is not None:
            client.set_registered_model_alias(name, alias, best)
            moved[alias] = best
    return moved


def _best(versions: Mapping[str, LoggedModel], metric: str) -> str | None:
    """The version with the highest score; of equal ones the earliest."""
    on_clips: dict[tuple[str, str], dict[str, Metric]] = defaultdict(dict)
    for version, model in versions.items():
        for one in _oldest_first(model.metrics or ()):
            if one.key == metric and one.dataset_name and one.dataset_digest:
                on_clips[one.dataset_name, one.dataset_digest][version] = one
    if not on_clips:
        return None
    scored = max(on_clips.values(), key=lambda found: (len(found), max(m.timestamp for m in found.values())))
    return max(scored, key=lambda version: (scored[version].value, -int(version)))


def _oldest_first(metrics: Iterable[Metric]) -> list[Metric]:
    return sorted(metrics, key=lambda one: one.timestamp)
