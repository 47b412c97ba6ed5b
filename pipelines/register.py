"""Register weights in MLflow's Model Registry, from which they can be loaded and served.

    python -m pipelines.register --weights FILE … [--name rwsa-xs]
    python -m pipelines.register --weights rwsa-nano

The second line registers weights that come with the package, by their name in `rwsa info`.

Of the weights of several training runs, those with the highest validation score are registered. Weights that
are registered under the name already get no second version.

The model is code and a safetensors file, without pickle. `mlflow.pyfunc.load_model("models:/NAME@ALIAS")`
loads it as a function of recordings; `mlflow models serve` serves it over HTTP.
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
from pathlib import Path

from pipelines.core.cli import as_location, storage_arguments, storage_of, verb
from pipelines.core.lineage import described, lineage_of
from pipelines.core.logged_models import (
    MODEL_FOLDER,
    WEIGHTS_TAG,
    LoggedFiles,
    find_model,
    log_model,
    model_params,
)
from pipelines.core.model_registry import (
    RegisteredVersion,
    check_model_name,
    existing_version,
    point_alias,
    register_model,
    write_model,
)
from pipelines.core.step_records import step_context
from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker, commit
from pipelines.reports.evaluation_entities import point_best_aliases
from pipelines.training.best_weights import best_weights
from rwsa.config import as_mapping
from rwsa.errors import InputError
from rwsa.files import StoragePath, absolute_location, is_remote, location, sha256_of
from rwsa.models import SIZES, load_model, weights_file
from rwsa.shipped import SUFFIX, about, shipped_names

ALIAS = "newest"


def register(
    weights: StoragePath, *, storage: StorageConfig, name: str | None = None, alias: str = ALIAS
) -> RegisteredVersion:
    """Register the logged model of these weights; without one, log it as a model of a new run first.

    The aliases `best-in-domain` and `best-out-of-domain` move to the versions with the best scores. Tags and
    description of the version lead to the run that trained the weights, if MLflow has it in the same
    experiment, and to its shards, corpora, recipe and commit.

    Args:
        weights: a file that `rwsa.load_model` reads, or the name of shipped weights; the published format is
            converted to safetensors.
        storage: with MLflow's address.
        name: registered model; `rwsa-` and the size's name by default, if it is a named size.
        alias: alias that moves to the version.

    Returns:
        The new version, or the one that already has these weights.

    Raises:
        InputError: the weights cannot be read; MLflow does not answer, or refuses the name.
    """
    if name is None and str(weights) in shipped_names():
        name = str(weights)
    weights = weights_file(weights)
    model, sha256 = load_model(weights), sha256_of(weights)
    size = next((known for known, one in SIZES.items() if one == model.config), None)
    if name is None and size is None:
        raise InputError(f"{weights}: is not one of the sizes {', '.join(SIZES)}; name the model with --name")
    name = f"rwsa-{size}" if name is None else name
    check_model_name(name, alias)
    tracker = Tracker(storage)
    if (version := existing_version(tracker.client, name, sha256)) is not None:
        _record(tracker, name, version)
        point_best_aliases(tracker.client, name)
        return point_alias(tracker.client, name=name, alias=alias, version=version)
    folder = location(absolute_location(str(weights))).parent
    # Published weights say which run's weights they are, since their metadata change the hash.
    published = _published(weights)
    lineage = lineage_of(tracker, published.get("run_sha256", sha256), folder=folder)
    tags = {"commit": commit(), WEIGHTS_TAG: sha256, **published, **lineage}
    params = {"weights": str(weights), WEIGHTS_TAG: sha256, "model": as_mapping(model.config), **lineage}
    with (
        tracker.run(f"register {name}", params=params, tags={"rwsa.kind": "model"}) as run,
        tempfile.TemporaryDirectory(prefix="rwsa-model-") as temporary,
    ):
        files = Path(temporary) / MODEL_FOLDER
        write_model(files, weights)
        logged = find_model(run.client, tracker.experiment_id, sha256)
        if logged is None:
            about = LoggedFiles(
                name=weights.stem, sha256=sha256, tags=tags, params=model_params(model.config)
            )
            logged = log_model(run.client, tracker.experiment_id, about, files, run_id=run.run_id)
        else:
            run.use_model(logged.model_id)
        registered = register_model(
            run.client,
            logged,
            logged.source_run_id or run.run_id,
            name=name,
            alias=alias,
            tags=tags,
            description=described(tags, tracker),
        )
        run.tag(rwsa__model=registered.name, rwsa__model_version=registered.version)
    _record(tracker, name, registered.version)
    point_best_aliases(tracker.client, name)
    return registered


def _published(weights: StoragePath) -> dict[str, str]:
    """What published weights say of themselves that a version shows; empty for others."""
    if is_remote(weights) or weights.suffix != SUFFIX:
        return {}
    facts = about(weights)
    return {name: str(facts[name]) for name in ("run_sha256", "licence", "command") if facts.get(name)}


def _record(tracker: Tracker, name: str, version: str) -> None:
    """Record the version as a result of a workflow's step, if this process is one."""
    if (step := step_context()) is not None:
        tags = tracker.client.get_model_version(name, version).tags
        uri = tracker.storage.tracking_uri
        step.record_model(name, version, tags, experiment_id=tracker.experiment_id, uri=uri)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        type=as_location,
        nargs="+",
        action="extend",
        required=True,
        metavar="FILE",
        help="weights to register: files, or the name of weights that come with rwsa; of those of several"
        " training runs, the best by validation score",
    )
    parser.add_argument("--name", help="registered model's name (default: rwsa- and the size, e.g. rwsa-xs)")
    parser.add_argument("--alias", default=ALIAS, help=f"alias that moves to the version (default: {ALIAS})")


@verb("pipelines.register", __doc__, _arguments, storage_arguments)
def main(options: argparse.Namespace) -> int:
    """Command line; returns the exit status."""
    storage = storage_of(options)
    weights = options.weights[0]
    if len(options.weights) > 1:
        best = best_weights(options.weights)
        weights = best.weights
        print(f"the best of {len(options.weights)} by validation: {weights} ({best.metric} {best.score:.3f})")
    registered = register(weights, storage=storage, name=options.name, alias=options.alias)
    print(f"{registered.name}, version {registered.version}; to serve it:")
    print(f"export MLFLOW_TRACKING_URI={shlex.quote(storage.tracking_uri)}")
    print(f"mlflow models serve --env-manager local --model-uri {shlex.quote(registered.uri)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
