"""Where results are: `STEP/latest`, links whose paths stay the same, and what to do with the results."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from pipelines.core.storage import StorageConfig
from pipelines.workflow.records import Output
from pipelines.workflow.runner import StepResult
from rwsa.files import is_remote, location

LATEST = "latest"


def link_latest(folder: str, outputs: Mapping[str, Output]) -> None:
    """Point `latest`, beside the folder of a step's results, to that folder; not in an object store.

    Results that lie elsewhere get a link in it: `weights.safetensors` to the weights of a run.

    Raises:
        OSError: the file system has no links, or refuses them.
    """
    place = location(folder)
    if is_remote(place):
        return
    for name, output in outputs.items():
        path = location(output.value)
        if output.signature is not None and not is_remote(path) and place not in path.parents:
            _link(place / _name(name, path), path)
    _link(place.parent / LATEST, place)


def _link(link: Path, target: Path) -> None:
    """Make or replace a link; relative, so that the folder can be moved."""
    text = os.path.relpath(target, link.parent)
    if link.is_symlink() and str(link.readlink()) == text:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(text, target_is_directory=target.is_dir())
    temporary.replace(link)


def _name(output: str, path: Path) -> str:
    return f"{output}{path.suffix if path.is_file() else ''}"


def where_to_look(storage: StorageConfig, results: Collection[StepResult]) -> Iterator[str]:
    """Lines for a terminal: pages, the experiment in MLflow, and how to use the weights."""
    if storage.tracking_uri.startswith("http"):
        yield f"in MLflow     {storage.tracking_uri}, experiment {storage.experiment}"
    else:
        uri = shlex.quote(storage.tracking_uri)
        yield f"in MLflow     mlflow ui --backend-store-uri {uri}, experiment {storage.experiment}"
    for result in results:
        if "page" in result.outputs:
            yield f"{'to look at':12}  {stable_place(result, 'page')}"
    trained = next((one for one in results if "weights" in one.outputs), None)
    if trained is not None:
        weights = shlex.quote(stable_place(trained, "weights"))
        yield f"to enhance    rwsa enhance noisy.wav --out enhanced --weights {weights}"


def stable_place(result: StepResult, output: str) -> str:
    """An output's path by `latest`, relative to the current folder if it is below; elsewhere its location."""
    path, place = location(result.outputs[output].value), location(result.folder)
    if is_remote(path) or is_remote(place):
        return str(path)
    inside = path.relative_to(place) if place in path.parents else Path(_name(output, path))
    stable = place.parent / LATEST / inside
    return str(stable.relative_to(Path.cwd())) if Path.cwd() in stable.parents else str(stable)
