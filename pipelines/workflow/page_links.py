"""Links of a workflow's page: to files below its storage, and to runs and models in MLflow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipelines.core.lineage import run_path
from pipelines.core.step_records import recorded_model, recorded_runs
from pipelines.domain_gap import PAGE as DOMAIN_GAP_PAGE
from pipelines.reports.evaluation_log import REPORT_FILE
from pipelines.reports.workflow_steps import PageLink
from pipelines.workflow.records import Output
from rwsa.files import StoragePath, is_file, is_remote, location

# Tags of a model version in the order in which they are read, from the weights back to their data.
_LINEAGE = (
    *("training_run", "training_name", "training_commit", "config_hash", "shards", "index_sha256"),
    *("dataset_run", "corpora", "recipe_hashes", "card", "recipe", "weights_sha256", "commit"),
)
# Output that is a folder -> the page in it.
_PAGES = {"tune.sweep": "report.html", "pipelines.domain_gap": DOMAIN_GAP_PAGE}


class PageLinks:
    """Links from the page in `folder`, which is below `root`."""

    def __init__(self, root: str, folder: StoragePath) -> None:
        self._root, self._folder = root, folder

    def file(self, value: str, label: str = "") -> PageLink:
        """A link to a file or folder, relative to the page, so that the storage may be moved."""
        root, below = self._root.rstrip("/"), value
        if value.startswith(f"{root}/"):
            below = value[len(root) + 1 :]
        if not is_remote(self._folder) or below != value:
            href = quote(os.path.relpath(value, str(self._folder)))
        else:
            href = ""
        return PageLink(text=below, href=href, label=label)

    def results(self, module: str, outputs: Mapping[str, Output]) -> Iterator[PageLink]:
        """What a step left: its report first, if it has one."""
        for name, output in outputs.items():
            if output.signature is None:
                if output.value:
                    yield PageLink(text=output.value, label=name)
                continue
            path = location(output.value)
            if module in _PAGES and is_file(path / _PAGES[module]):
                yield self.file(str(path / _PAGES[module]), "report")
            is_page = Path(output.value).suffix == ".html"
            yield self.file(output.value, "report" if is_page else name)

    def runs(self, module: str, folder: StoragePath) -> Iterator[PageLink]:
        """The runs that a step logged, and the reports in them."""
        for run_id, about in recorded_runs(folder).items():
            one = self.run(run_id, about)
            yield one
            if module == "pipelines.evaluate" and one.href:
                yield PageLink(text="report", href=f"{one.href}/artifacts/{REPORT_FILE}")

    def run(self, run_id: str, about: Mapping[str, str]) -> PageLink:
        """A run; without a server its page has no address, and its name must do."""
        path = run_path(about["experiment_id"], run_id)
        href = f"{about['uri'].rstrip('/')}/{path}" if about["uri"].startswith("http") else ""
        return PageLink(text=about["name"], href=href, mlflow_path=path)

    def model(self, folder: StoragePath) -> dict[str, PageLink]:
        """The model that a step registered, and what it was made from; empty if it did not."""
        found = recorded_model(folder)
        if found is None:
            return {}
        name, version = str(found["name"]), str(found["version"])
        uri = str(found["uri"]).rstrip("/") if str(found["uri"]).startswith("http") else ""
        href = f"{uri}/#/models/{quote(name)}/versions/{version}" if uri else ""
        lines = {"model": PageLink(text=f"{name}, version {version}", href=href)}
        about = found["about"]
        for key in (*(name for name in _LINEAGE if name in about), *sorted(about.keys() - set(_LINEAGE))):
            lines[key.replace("_", " ")] = self._of_model(key, about[key], found)
        return lines

    def _of_model(self, key: str, value: str, model: Mapping[str, Any]) -> PageLink:
        if key == "shards":
            return self.file(value)
        if key.endswith("_run"):
            experiment = str(model["experiment_id"])
            return self.run(value, {"name": value, "experiment_id": experiment, "uri": str(model["uri"])})
        return PageLink(text=value)
