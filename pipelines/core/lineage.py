"""What weights were made from, as MLflow knows it: training run, shards, corpora, recipe, workflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import quote

from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipelines.core.logged_models import WEIGHTS_TAG
from pipelines.core.mlflow_guard import TrackingError, searchable
from pipelines.core.step_records import step_context
from pipelines.core.tracking import Tracker
from rwsa.files import StoragePath

TRAINING_KIND, TRIAL_KIND = "training", "trial"
# Parameters of a training run that say what it was trained on.
_DATA = ("index_sha256", "corpora", "recipe_hashes")
_SHARDS, _CARD, _RECIPE = "data.shards", "data.mix.card", "data.mix.recipe"
_NOTHING = ("", "None")


def training_key(folder: StoragePath) -> str:
    """Key of the run that trains in a folder."""
    return f"train {folder.name} in {folder}"


def lineage_of(tracker: Tracker, sha256: str, *, folder: StoragePath) -> dict[str, str]:
    """Tags of a model version that lead from its weights back to their data; empty if MLflow knows none.

    Args:
        tracker: of the experiment in which the training run is.
        sha256: of the weights.
        folder: of the weights, by which runs of earlier versions are found, which did not note the hash.
    """
    found = training_run(tracker, sha256, folder=folder)
    step = step_context()
    tags = {"workflow": step.workflow, "workflow_run": step.run_id} if step else {}
    if found is None:
        return tags
    params, run_tags = found.data.params, found.data.tags
    tags |= {
        "training_run": found.info.run_id,
        "training_name": found.info.run_name,
        "training_commit": run_tags.get("mlflow.source.git.commit", ""),
        "config_hash": params.get("config_hash", ""),
        **{name: params.get(name, "") for name in _DATA},
        "shards": params.get(_SHARDS, ""),
        "card": params.get(_CARD, ""),
        "recipe": params.get(_RECIPE, ""),
        "dataset_run": _dataset_run(tracker, params.get("index_sha256", "")),
    }
    for above in _above(tracker, found):
        if kind := above.data.tags.get("rwsa.kind"):
            tags.setdefault(f"{kind}_run", above.info.run_id)
    return {name: value for name, value in tags.items() if value not in _NOTHING}


def described(tags: Mapping[str, str], tracker: Tracker) -> str:
    """The lineage as Markdown, for the description of a model version."""
    links = {name: run_path(tracker.experiment_id, tags[name]) for name in tags if name.endswith("_run")}
    return "\n".join(
        f"- {name.replace('_', ' ')}: " + (f"[{value}]({links[name]})" if name in links else value)
        for name, value in tags.items()
    )


def run_path(experiment_id: str, run_id: str) -> str:
    """The address of a run within MLflow's pages."""
    return f"#/experiments/{quote(experiment_id)}/runs/{quote(run_id)}"


def training_run(tracker: Tracker, sha256: str, *, folder: StoragePath) -> Run | None:
    """The run that trained weights, by their hash, or (of earlier versions) by their folder."""
    key = searchable(training_key(folder))
    for wanted in (
        *(
            f"tags.`{WEIGHTS_TAG}` = '{sha256}' AND tags.`rwsa.kind` = '{kind}'"
            for kind in (TRAINING_KIND, TRIAL_KIND)
        ),
        f"tags.`rwsa.key` = '{key}'",
    ):
        runs = tracker.client.search_runs(
            [tracker.experiment_id], wanted, max_results=1, order_by=["attributes.start_time DESC"]
        )
        if runs:
            return runs[0]
    return None


def _dataset_run(tracker: Tracker, index_sha256: str) -> str:
    """The run with the dataset page of these shards."""
    if not index_sha256:
        return ""
    runs = tracker.client.search_runs(
        [tracker.experiment_id], f"tags.`rwsa.index_sha256` = '{index_sha256}'", max_results=1
    )
    return runs[0].info.run_id if runs else ""


def _above(tracker: Tracker, run: Run) -> Iterator[Run]:
    """The runs that a run is nested in."""
    seen = {run.info.run_id}
    while (parent := run.data.tags.get(MLFLOW_PARENT_RUN_ID)) and parent not in seen:
        seen.add(parent)
        try:
            run = tracker.client.get_run(parent)
        except TrackingError:
            return  # it was deleted
        yield run
