"""A workflow as Dagster assets, for its schedules, backfills and pages.

    RWSA_WORKFLOW="pipelines/workflows/demo.yaml --smoke" dagster dev -m pipelines.dagster_assets

Every step is an asset; a step that checks shards is an asset check. A run of Dagster is one
`python -m pipelines.run`, which knows what is done and runs independent steps at the same time: on this
machine, or as a job of the Ray cluster whose dashboard `RAY_ADDRESS` names (`http://HOST:8265`). Needs
`pip install -e '.[app,cluster,dagster]'`.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
import yaml

from pipelines import run
from pipelines.core.cli import ADDRESS
from pipelines.core.runtime_env import CHECKOUT
from pipelines.dagster_run import Launch, here, submit, summary_in
from pipelines.workflow.references import references_in
from pipelines.workflow.schema import WorkflowConfig, read_workflow
from pipelines.workflow.steps import Step, steps_of
from rwsa.command_line import parsed
from rwsa.errors import InputError

VARIABLE = "RWSA_WORKFLOW"
_COMPLETE = ("done", "finished")


def workflow_definitions(
    words: Sequence[str],
    *,
    cron: str | None = None,
    partitions: tuple[str, Sequence[str]] | None = None,
    address: str | None = None,
) -> dg.Definitions:
    """Dagster definitions of a workflow.

    Args:
        words: the file, relative to the checkout, and `--smoke`, `--set …` or `--storage …` of
            `pipelines.run`.
        cron: when to run all steps, as in `0 1 * * 6`.
        partitions: a parameter of the workflow and values for it; each is a partition of every asset.
        address: `http://HOST:PORT` of the dashboard of a Ray cluster; None runs on this machine.

    Raises:
        InputError: the workflow or an option is invalid.
    """
    graph = AssetGraph(_read(words))
    keys = None if partitions is None else dg.StaticPartitionsDefinition(list(partitions[1]))
    launch: Launch = here if address is None else submit(address)

    @dg.multi_asset(
        name=graph.name,
        specs=[graph.spec(step) for step in graph.assets.values()],
        check_specs=[graph.check_spec(step) for step in graph.checks.values()],
        partitions_def=keys,
        can_subset=True,
        pool=graph.name,
    )
    def run_steps(context):  # type: ignore[no-untyped-def]
        chosen = graph.chosen(context.selected_asset_keys, context.selected_asset_check_keys)
        setting = [] if partitions is None else ["--set", f"{partitions[0]}={context.partition_key}"]
        output = launch(context, graph.name, [*words, *setting, "--only", *chosen, "--json", "-"])
        summary = summary_in(output)
        if summary is None:
            raise dg.Failure(f"the workflow could not be run: {_last_line(output)}")
        yield from graph.results(summary["steps"], chosen)

    job = dg.define_asset_job(f"run_{graph.name}", selection=dg.AssetSelection.assets(run_steps))
    schedules = [dg.ScheduleDefinition(job=job, cron_schedule=cron)] if cron else []
    return dg.Definitions(assets=[run_steps], jobs=[job], schedules=schedules)


@dg.definitions
def definitions() -> dg.Definitions:
    """The workflow and options in `RWSA_WORKFLOW`."""
    words = shlex.split(os.environ.get(VARIABLE, ""))
    if not words:
        raise InputError(f"{VARIABLE} is not set; name a workflow in it: pipelines/workflows/demo.yaml")
    address = os.environ.get(ADDRESS, "")
    return workflow_definitions(words, address=address if address.startswith("http") else None)


def _read(words: Sequence[str]) -> WorkflowConfig:
    options = vars(parsed(run.main.parser(), words, where=shlex.join(words)))
    for name, value in options.items():
        if value and name not in ("workflow", "smoke", "settings", "storage", "address"):
            raise InputError(
                f"{shlex.join(words)}: only --smoke, --set, --storage and --address go with Dagster"
            )
    return read_workflow(CHECKOUT / options["workflow"], options["settings"], smoke=options["smoke"])


class AssetGraph:
    """The steps of a workflow as assets, and as checks of assets.

    Attributes:
        name: of the workflow, as Dagster allows it.
        assets: the steps that are assets, by name.
        checks: the steps that check what others leave.
    """

    def __init__(self, workflow: WorkflowConfig) -> None:
        self._workflow, self._steps = workflow, steps_of(workflow)
        self.name = _identifier(workflow.name)
        self.checks = {name: step for name, step in self._steps.items() if self._checked(step)}
        self.assets = {name: step for name, step in self._steps.items() if name not in self.checks}

    def spec(self, step: Step) -> dg.AssetSpec:
        """An asset in a group of all instances of a step."""
        return dg.AssetSpec(
            key=self._key(step.name),
            deps=[self._key(name) for name in self._needs(step)],
            description=self._description(step),
            group_name=_identifier(step.base),
            kinds={self._workflow.steps[step.base].verb},
        )

    def check_spec(self, step: Step) -> dg.AssetCheckSpec:
        """A check of the first asset that the step reads; it stops what needs it."""
        first, *others = self._checked(step)
        return dg.AssetCheckSpec(
            name=_identifier(step.name),
            asset=self._key(first),
            additional_deps=[self._key(name) for name in others],
            description=self._description(step),
            blocking=any(step.name in other.needs for other in self._steps.values()),
        )

    def chosen(self, assets: Collection[dg.AssetKey], checks: Collection[dg.AssetCheckKey]) -> list[str]:
        """The steps that Dagster selected."""
        names = {key.name for key in checks}
        return [
            name
            for name in self._steps
            if (_identifier(name) in names if name in self.checks else self._key(name) in assets)
        ]

    def results(
        self, found: Sequence[Mapping[str, Any]], chosen: Sequence[str]
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        """What to report to Dagster: assets of complete steps, and checks that ran.

        Raises:
            dagster.Failure: at the end, if an asset is not complete.
        """
        for step in found:
            if step["step"] in self.checks:
                if step["result"] in (*_COMPLETE, "failed"):
                    yield self._check_result(step)
            elif step["result"] in _COMPLETE:
                yield dg.MaterializeResult(
                    asset_key=self._key(step["step"]),
                    data_version=dg.DataVersion(step["identity"]),
                    metadata=_metadata(step),
                )
        complete = {step["step"] for step in found if step["result"] in _COMPLETE}
        if set(chosen) - complete - set(self.checks):
            failed = [step for step in found if step["result"] == "failed"]
            others = [step for step in found if step["result"] not in (*_COMPLETE, "failed")]
            raise dg.Failure(
                "; ".join(f"{step['step']}: {step['result']}: {step['why']}" for step in failed or others),
                metadata={step["step"]: step["why"] for step in (*failed, *others)},
            )

    def _check_result(self, step: Mapping[str, Any]) -> dg.AssetCheckResult:
        warned = step["result"] == "failed" and step.get("errors") == 0  # with `strict`
        return dg.AssetCheckResult(
            passed=step["result"] != "failed",
            asset_key=self._key(self._checked(self._steps[step["step"]])[0]),
            check_name=_identifier(step["step"]),
            severity=dg.AssetCheckSeverity.WARN if warned else dg.AssetCheckSeverity.ERROR,
            metadata=_metadata(step),
        )

    def _checked(self, step: Step) -> list[str]:
        """The steps whose shards a step checks; none if it checks none, or does something else."""
        if self._workflow.steps[step.base].verb != "check":
            return []
        bases = {name for name, output in references_in(step.options) if output is not None}
        return [name for name in step.needs if self._steps[name].base in bases]

    def _needs(self, step: Step) -> list[str]:
        """The assets that a step needs; for a check that it needs, the assets that this checks."""
        found = dict[str, None]()
        for name in step.needs:
            found |= dict.fromkeys(self._needs(self._steps[name]) if name in self.checks else [name])
        return list(found)

    def _key(self, step: str) -> dg.AssetKey:
        return dg.AssetKey([self._workflow.name, step])

    def _description(self, step: Step) -> str:
        options = yaml.safe_dump(dict(step.options), sort_keys=False, allow_unicode=True)
        return f"`{self._workflow.steps[step.base].verb}`\n\n```yaml\n{options}```"


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def _last_line(output: str) -> str:
    return next((line for line in reversed(output.splitlines()) if line.strip()), "no output")


def _metadata(step: Mapping[str, Any]) -> dict[str, dg.MetadataValue]:
    """What Dagster shows of a step: where its results are, how long it took, its scores."""
    values: dict[str, dg.MetadataValue] = {
        name: dg.MetadataValue.path(value) for name, value in step["outputs"].items()
    }
    values |= {name: dg.MetadataValue.int(step[name]) for name in ("errors", "warnings") if name in step}
    values["seconds"] = dg.MetadataValue.float(float(step["seconds"]))
    values |= {name: dg.MetadataValue.text(step[name]) for name in ("result", "why") if step[name]}
    values |= {name: dg.MetadataValue.path(step[name]) for name in ("log", "folder") if step[name]}
    if "scores" in step:
        values["scores"] = dg.MetadataValue.md(_score_table(step["scores"]))
        for corpus, systems in step["scores"].items():
            for system, means in systems.items():
                if isinstance(means, Mapping) and isinstance(means.get("pesq"), float):
                    values[f"PESQ, {corpus}, {system}"] = dg.MetadataValue.float(means["pesq"])
    return values


def _score_table(corpora: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table with a row per corpus and system."""
    rows = [
        (corpus, system, means)
        for corpus, systems in corpora.items()
        for system, means in systems.items()
        if isinstance(means, Mapping)
    ]
    metrics = list(dict.fromkeys(metric for *_, means in rows for metric in means))
    lines = [["corpus", "system", *metrics], ["---"] * (2 + len(metrics))]
    for corpus, system, means in rows:
        found = [means.get(metric) for metric in metrics]
        lines.append([corpus, system, *("–" if value is None else f"{value:.3f}" for value in found)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
