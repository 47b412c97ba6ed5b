"""How weights were trained: from the checkpoints beside them, and from their run in MLflow."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Run

from pipelines.core.lineage import training_run
from pipelines.core.runtime_env import CHECKOUT
from pipelines.core.tracking import Tracker
from pipelines.training.best_weights import validated
from pipelines.training.config import TrainRunConfig
from rwsa.config import build, merge, nested, read_overlays
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.errors import InputError
from rwsa.files import StoragePath, absolute_location, location, sha256_of
from rwsa.models import Network
from rwsa.training.checkpoints import Checkpoints
from rwsa.training.saved_state import read_saved, settings_of

_SECONDS = ("speed/validation_seconds", "speed/checkpoint_seconds", "speed/audio_seconds")
_PATHS = ("data.mix.card", "data.mix.recipe")


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """How weights were trained.

    Attributes:
        sha256: of the run's weights.
        settings: dotted name -> value, with paths relative to the checkout.
        card: file of the corpus card; None if shards were trained on, or a card within the configuration.
        command: that trains them again.
        commits: of the code, one for each start that had another.
        steps, best_step: trained, and that of the weights.
        metric, best_score: of the validation that chose the step.
        curve: (step, validation score).
        core_hours: hours of training times the threads that it had.
        audio_hours: length of all segments trained on.
        threads, cpu, gpus: of the machine.
    """

    sha256: str
    settings: Mapping[str, Any]
    card: Path | None
    command: str
    commits: tuple[str, ...]
    steps: int
    best_step: int
    metric: str
    best_score: float
    curve: tuple[tuple[int, float], ...]
    core_hours: float
    audio_hours: float
    threads: int
    cpu: str
    gpus: tuple[str, ...]


def training_facts(
    weights: StoragePath, model: Network, tracker: Tracker, overlays: Sequence[Path]
) -> TrainingFacts:
    """Gather them.

    Args:
        weights: `model.safetensors` in the folder of its run, with the checkpoints.
        model: the weights, loaded.
        tracker: of the run's experiment.
        overlays: configurations from which the command starts; what the run's differs in, it sets.

    Raises:
        InputError: the weights have no validated checkpoint beside them, or MLflow does not know their run.
    """
    best = validated(weights)
    checkpoints = Checkpoints(weights.parent / "checkpoints")
    latest, chosen = checkpoints.latest(), checkpoints.best()
    assert latest is not None
    assert chosen is not None
    saved = read_saved(latest)
    if saved.settings is None:
        raise InputError(f"{latest}: was saved by an early version, without its settings; train again")
    sha256 = sha256_of(weights)
    folder = location(absolute_location(str(weights))).parent
    run = training_run(tracker, sha256, folder=folder)
    if run is None:
        raise InputError(
            f"{weights}: MLflow at {tracker.storage.tracking_uri} has no training run of these weights in the"
            f" experiment '{tracker.storage.experiment}'; give the storage of the training, --set"
            " storage.tracking_uri=… storage.experiment=…"
        )
    sharded = run.data.params.get("data.shards", "None") != "None"
    settings = {name: _in_checkout(name, value) for name, value in saved.settings.items()}
    starts = _starts(tracker, run)
    threads = max((start["environment"]["threads"] for start in starts), default=1)
    batch = int(settings["global_batch_size"])
    processes = max(1, int(run.data.params.get("workers", 0)))
    return TrainingFacts(
        sha256=sha256,
        settings=settings,
        card=None if sharded else _card(saved.settings.get("data.mix.card"), settings.get("data.mix.card")),
        command=_command(settings, overlays, name=weights.parent.name, sharded=sharded),
        commits=tuple(dict.fromkeys(start["commit"] for start in starts)),
        steps=saved.step,
        best_step=read_saved(chosen).step,
        metric=best.metric,
        best_score=best.score,
        curve=tuple(_curve(tracker, run, f"valid/{best.metric}")),
        core_hours=_training_seconds(tracker, run, batch) * threads * processes / 3600,
        audio_hours=saved.step * batch * model.config.segment_samples / SAMPLE_RATE_HZ / 3600,
        threads=threads * processes,
        cpu=next((start["environment"]["cpu"] for start in starts), "unknown"),
        gpus=tuple(starts[-1]["environment"]["gpus"]) if starts else (),
    )


def _card(given: Any, in_checkout: Any) -> Path | None:
    """The file of a card: where the run had it, or in this checkout."""
    paths = [Path(one) for one in (given, CHECKOUT / str(in_checkout)) if isinstance(one, str | Path)]
    return next((path for path in paths if path.is_file()), None)


def _in_checkout(name: str, value: Any) -> Any:
    """A path as seen from the checkout, of which the run may have had another copy."""
    if name in _PATHS and isinstance(value, str) and Path(value).is_absolute():
        parts = Path(value).parts
        ends = (Path(*parts[at:]) for at in range(1, len(parts)))
        return next((str(end) for end in ends if (CHECKOUT / end).is_file()), Path(value).name)
    return value


def _command(settings: Mapping[str, Any], overlays: Sequence[Path], *, name: str, sharded: bool) -> str:
    """The command of a run with these settings; what the overlays do not say, `--set` does."""
    said = {key: _in_checkout(key, value) for key, value in _said(settings, overlays).items()}
    changed = [f"name={name}", *(["data.shards=SHARDS"] if sharded else [])]
    changed += [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in settings.items()
        if key in said and said[key] != value
    ]
    changed += [
        f"{key}={json.dumps(value)}"
        for key, value in settings.items()
        if key not in said and value is not None
    ]
    names = [path.stem if path.parent.name == "configs" else str(path) for path in overlays]
    return shlex.join(["python", "-m", "pipelines.train", *names, "--set", *changed])


def _said(settings: Mapping[str, Any], overlays: Sequence[Path]) -> dict[str, Any]:
    """The settings that overlays give, with the defaults of all others.

    Where they name no network or no data, the run's own complete the configuration, and do not count.
    """
    given = read_overlays(overlays)
    lacking = [
        section
        for section, required in (("model", {"channels"}), ("data", {"mix", "shards"}))
        if not required & given.get(section, {}).keys()
    ]
    values = {"name": "any", **given}
    for key, value in settings.items():
        if key.partition(".")[0] in lacking:
            values = merge(nested(key.split("."), value), values)
    config = build(TrainRunConfig, values, where=" ".join(path.name for path in overlays))
    return {key: value for key, value in settings_of(config).items() if key.partition(".")[0] not in lacking}


def _starts(tracker: Tracker, run: Run) -> list[dict[str, Any]]:
    """What each start of the run recorded of commit and machine."""
    with tempfile.TemporaryDirectory(prefix="rwsa-starts-") as folder:
        files = [one.path for one in tracker.client.list_artifacts(run.info.run_id, "starts")]
        paths = [tracker.client.download_artifacts(run.info.run_id, file, folder) for file in sorted(files)]
        return [json.loads(Path(path).read_text(encoding="utf-8")) for path in paths]


def _history(tracker: Tracker, run: Run, name: str) -> list[Metric]:
    found: list[Metric] = tracker.client.get_metric_history(run.info.run_id, name)
    return sorted(found, key=lambda one: one.timestamp)


def _curve(tracker: Tracker, run: Run, name: str) -> Iterator[tuple[int, float]]:
    """The score of each step; of one that was trained again after an interruption, the last."""
    yield from sorted({one.step: one.value for one in _history(tracker, run, name)}.items())


def _training_seconds(tracker: Tracker, run: Run, batch: int) -> float:
    """Seconds of all steps, validations and checkpoints, without the time between interruptions."""
    seconds, before = 0.0, 0
    for one in _history(tracker, run, "speed/samples_per_second"):
        steps = one.step - before if one.step > before else 0
        seconds += steps * batch / one.value
        before = one.step
    return seconds + sum(one.value for name in _SECONDS for one in _history(tracker, run, name))
