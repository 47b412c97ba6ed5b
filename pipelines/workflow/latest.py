"""Where the results of a workflow are: `ROOT/latest/WORKFLOW/STEP`, links whose paths stay the same."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterator
from pathlib import Path

from pipelines.workflow.prepare import Preparation
from pipelines.workflow.runner import StepResult
from rwsa.files import is_remote, location

LATEST = "latest"


class LatestResults:
    """Links to the newest results of each step of a workflow; in an object store there are none."""

    def __init__(self, preparation: Preparation) -> None:
        self._storage = preparation.workflow.storage
        self._folder = location(preparation.root) / LATEST / preparation.workflow.name

    def link(self, results: Collection[StepResult]) -> None:
        """Point the link of each step to the folder of its results.

        Results that lie elsewhere get a link in that folder: `weights.safetensors` to a run's weights.

        Raises:
            OSError: the file system has no links, or refuses them.
        """
        for result in results:
            if not result.outputs or is_remote(self._folder):
                continue
            place = Path(result.folder)
            for name, output in result.outputs.items():
                if output.signature is None:
                    continue  # a name, which may be empty
                path = location(output.value)
                if not is_remote(path) and place not in path.parents:
                    _link(place / _name(name, path), path)
            _link(self._folder / result.step.name, place)

    def where_to_look(self, results: Collection[StepResult]) -> Iterator[str]:
        """Lines for a terminal: the experiment in MLflow, pages, and how to use the weights."""
        uri, experiment = self._storage.tracking_uri, self._storage.experiment
        command = uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
        yield f"in MLflow   {command}, experiment {experiment}"
        for result in results:
            if "page" in result.outputs:
                yield f"to look at  {self.path(result, 'page')}"
        trained = next((one for one in results if "weights" in one.outputs), None)
        if trained is not None:
            weights = shlex.quote(self.path(trained, "weights"))
            yield f"to enhance  rwsa enhance noisy.wav --out enhanced --weights {weights}"

    def path(self, result: StepResult, output: str) -> str:
        """An output's path by its link, relative if it is below the current folder; else its location."""
        path, place = location(result.outputs[output].value), Path(result.folder)
        if is_remote(path) or is_remote(self._folder):
            return str(path)
        inside = path.relative_to(place) if place in path.parents else Path(_name(output, path))
        stable = self._folder / result.step.name / inside
        return str(stable.relative_to(Path.cwd())) if Path.cwd() in stable.parents else str(stable)


def _name(output: str, path: Path) -> str:
    return f"{output}{path.suffix if path.is_file() else ''}"


def _link(link: Path, target: Path) -> None:
    """Make or replace a link; relative, so that the folders can be moved together."""
    text = os.path.relpath(target, link.parent)
    if link.is_symlink() and str(link.readlink()) == text:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(text, target_is_directory=target.is_dir())
    temporary.replace(link)
