"""Publish weights of a training run with the package, and write their model card.

    python -m pipelines.evaluate --weights W --corpora CARD … --json scores.json
    python -m pipelines.publish --weights W --name NAME --configs base nano long --scores scores.json

W is `model.safetensors` in the folder of its run. The command writes `NAME.safetensors`, the card `NAME.md`
and the curve `NAME.svg` to `rwsa/weights`; with `--default` they become the weights that `rwsa enhance`
uses. Whatever the card says is read from checkpoints, MLflow, the corpus card and the scores, or measured
here.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.core.cli import as_location, storage_arguments, storage_of, verb
from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from pipelines.evaluation.published_tables import PEERS, read_published
from pipelines.publishing.card import CardFacts, card_text, curve_svg
from pipelines.publishing.data_facts import DataFacts, data_facts
from pipelines.publishing.scores import real_time_factor, scores_of
from pipelines.publishing.training_facts import TrainingFacts, training_facts
from pipelines.train import config_paths
from rwsa.command_line import path_argument
from rwsa.errors import InputError
from rwsa.files import StoragePath, atomic_write, sha256_of
from rwsa.lease import locked
from rwsa.models import SIZES, Network, load_model, save_model
from rwsa.shipped import DEFAULT, FOLDER, MAX_BYTES, SUFFIX

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")


@locked("out")
def publish(
    weights: StoragePath,
    name: str,
    *,
    out: Path,
    scores: Sequence[Path],
    overlays: Sequence[Path],
    storage: StorageConfig,
    default: bool = False,
) -> Path:
    """Write weights, card and curve into `out`; returns the weights' path.

    Args:
        weights: `model.safetensors` in the folder of its run, with the checkpoints.
        name: of the published weights.
        out: folder of the package.
        scores: files that `pipelines.evaluate --json` wrote for these weights, the in-domain corpus first.
        overlays: configurations from which the card's command starts.
        storage: with the training's MLflow.
        default: whether `rwsa.load_model()` loads them.

    Raises:
        InputError: the name cannot be used; run, data or scores are not at hand or not of these weights; the
            folder would exceed `MAX_BYTES`.
    """
    if not _NAME.fullmatch(name) or name in SIZES:
        raise InputError(
            f"--name {name!r}: give up to 40 of a-z, 0-9, '.', '_' and '-', and not a size's name"
        )
    target = out / f"{name}{SUFFIX}"
    model = load_model(weights)
    _check_size(out, target, weights)
    found = scores_of(sha256_of(weights), scores)
    training = training_facts(weights, model, Tracker(storage), overlays)
    if training.card is None:
        raise InputError(
            f"{weights}: was not trained on a card whose file is still there (data.mix.card), so its data and"
            " their licences cannot be described; restore the card, or train on one instead of shards"
        )
    data, speed = data_facts(training.card), real_time_factor(model)
    about = _about(name, model, training, data, found, speed)
    save_model(target, model, about)
    target.chmod(0o644)  # safetensors lets only the owner read
    if default:
        _write(out / DEFAULT, f"{name}\n".encode())
    facts = CardFacts(
        name=name,
        default=default,
        summary=model.config.summary,
        parameters=about["parameters"],
        sha256=sha256_of(target),
        training=training,
        data=data,
        scores=found,
        real_time_factor=speed,
        recipe=str(training.settings.get("data.mix.recipe")),
    )
    _write(out / f"{name}.svg", curve_svg(training))
    _write(out / f"{name}.md", card_text(facts, read_published(PEERS)).encode())
    return target


def _about(
    name: str,
    model: Network,
    training: TrainingFacts,
    data: DataFacts,
    scores: dict[str, Any],
    speed: float,
) -> dict[str, Any]:
    """The metadata of the published file, which `rwsa info` shows."""
    return {
        "name": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "licence": data.licence,
        "corpus": data.corpus,
        "data": [dict(source) for source in data.sources],
        "commit": ", ".join(training.commits),
        "command": training.command,
        "steps": training.steps,
        "step": training.best_step,
        "seed": training.settings["seed"],
        "core_hours": round(training.core_hours, 2),
        "validation": {"metric": training.metric, "score": round(training.best_score, 4)},
        "run_sha256": training.sha256,
        "real_time_factor": speed,
        "scores": scores,
    }


def _check_size(out: Path, target: Path, weights: StoragePath) -> None:
    others = [path for path in out.glob("*") if path.is_file() and path.stem != target.stem]
    size = weights.stat().st_size + sum(path.stat().st_size for path in others)
    if size > MAX_BYTES:
        raise InputError(
            f"{out}: would hold {size / 1e6:.1f} MB, and the package {MAX_BYTES / 1e6:.0f} MB at most; remove"
            f" other weights ({', '.join(sorted(path.stem for path in out.glob(f'*{SUFFIX}'))) or 'none'}),"
            " or publish a smaller network"
        )


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        type=as_location,
        required=True,
        metavar="FILE",
        help="model.safetensors of a training run",
    )
    parser.add_argument("--name", required=True, help="name of the published weights, e.g. rwsa-small")
    parser.add_argument(
        "--scores",
        type=path_argument,
        nargs="+",
        action="extend",
        required=True,
        metavar="FILE",
        help="what pipelines.evaluate --json wrote for these weights, the in-domain corpus first",
    )
    parser.add_argument(
        "--configs",
        nargs="+",
        default=["base"],
        metavar="CONFIG",
        help="configurations that the run was started with (default: base); what they do not say, the card's"
        " command sets",
    )
    parser.add_argument(
        "--default", action="store_true", help="make them the weights that rwsa uses by default"
    )
    parser.add_argument(
        "--out",
        type=path_argument,
        default=FOLDER,
        metavar="FOLDER",
        help="where to write (default: the package)",
    )


@verb("pipelines.publish", __doc__, _arguments, storage_arguments)
def main(options: argparse.Namespace) -> int:
    """Command line; returns the exit status."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    target = publish(
        options.weights,
        options.name,
        out=options.out,
        scores=options.scores,
        overlays=config_paths(options.configs),
        storage=storage_of(options),
        default=options.default,
    )
    print(f"{target}, with its card {target.with_suffix('.md')}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
