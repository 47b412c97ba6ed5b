"""A step with everything it needs known: its identity, its command, and whether it is done."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.workflow.content import content_hash, recordings_signature, signature
from pipelines.workflow.records import LOG, Identity, Output, Record, State, StepFolder, is_there, output_of
from pipelines.workflow.references import references_in, resolve
from pipelines.workflow.schema import WorkflowConfig
from pipelines.workflow.steps import Step, parse
from pipelines.workflow.verbs import RESOURCES, inputs_of, outputs_of, own_cpus, runs_alone
from rwsa.corpora.cards import read_card
from rwsa.errors import InputError
from rwsa.files import StoragePath, absolute_location, location
from rwsa.fingerprint import code_fingerprint


@dataclass(frozen=True, kw_only=True)
class PreparedStep:
    """A step that can run.

    Attributes:
        record: of an earlier run with the same identity, if it was completed.
        state: where it stands, and `why`.
        command: to run.
        places: output -> its value, and whether that is a location.
        cpus: that the step's own process uses.
        alone: whether no other step may run beside it.
    """

    step: Step
    folder: StepFolder
    identity: Identity
    record: Record | None
    state: State
    why: str
    command: list[str]
    places: Mapping[str, tuple[str, bool]]
    cpus: int
    alone: bool

    @property
    def place(self) -> str:
        """The folder of its results."""
        return str(self.folder.of(self.identity))

    @property
    def log(self) -> str:
        """The file of its output."""
        return str(self.folder.of(self.identity) / LOG)

    def outputs(self) -> dict[str, Output]:
        """What the step left.

        Raises:
            InputError: it left nothing where an output should be.
        """
        return {name: output_of(value, is_place=place) for name, (value, place) in self.places.items()}


class Preparation:
    """Prepares the steps of one workflow; hashes every file once."""

    def __init__(self, workflow: WorkflowConfig, steps: Mapping[str, Step]) -> None:
        self.workflow, self.steps = workflow, steps
        self.root = absolute_location(workflow.storage.root)
        self.folder = location(self.root) / "workflows" / workflow.name
        self._hashes: dict[str, str] = {}

    def prepare(
        self, step: Step, outputs: Mapping[str, Mapping[str, Output]], *, force: bool = False
    ) -> PreparedStep:
        """Prepare a step whose needs are all complete.

        Args:
            step: of the workflow.
            outputs: of the steps it needs, by their names.
            force: run it again even if it is done.

        Raises:
            InputError: an input does not exist, or an option is invalid.
        """
        folder = StepFolder(self.folder / step.name)
        given = self._resolved(step, outputs)
        identity = self._identity(step, given, outputs, folder)
        if force and folder.record(identity) is not None:
            identity = _next(identity)
        record = folder.record(identity)
        state, why = _state(folder, identity, record)
        name = f"{self.workflow.name}-{step.name}-{identity.digest[:6]}"
        arguments, parsed = parse(step, self._placed(step, given, folder.of(identity), name=name))
        return PreparedStep(
            step=step,
            folder=folder,
            identity=identity,
            record=record if state == "done" else None,
            state=state,
            why=why,
            command=_command(step, arguments),
            places=outputs_of(step.verb, parsed),
            cpus=own_cpus(step.verb, parsed) if step.cpus is None else step.cpus,
            alone=runs_alone(step.verb, parsed),
        )

    def command_with_stand_ins(self, step: Step, outputs: Mapping[str, str]) -> list[str] | None:
        """The command of a step whose needs are not complete, for an estimate.

        Args:
            step: of the workflow.
            outputs: stand-ins for outputs, by their names.

        Returns:
            None if the step depends on other outputs.
        """
        wanted = {output for _, output in references_in(step.options) if output is not None}
        made = {
            name: {output: Output(value=value, digest="") for output, value in outputs.items()}
            for name in step.needs
        }
        variables = {key for name in step.needs for key in self.steps[name].variables}
        if not wanted <= {*outputs, *variables}:
            return None
        arguments, _ = parse(step, self._placed(step, self._resolved(step, made), self.folder, name="any"))
        return _command(step, arguments)

    def _resolved(
        self, step: Step, outputs: Mapping[str, Mapping[str, Output]], *, content: bool = False
    ) -> dict[str, Any]:
        def values(base: str, output: str) -> list[Any]:
            found = []
            for name in step.needs:
                other = self.steps[name]
                if other.base != base:
                    continue
                if output in other.variables:
                    found.append(other.variables[output])
                else:
                    left = outputs[name][output]
                    found.append(left.digest if content else left.value)
            return found

        names = {**self.workflow.params, **step.variables}
        resolved: dict[str, Any] = resolve(step.options, names, values, where=f"step '{step.name}'")
        return resolved

    def _identity(
        self,
        step: Step,
        given: Mapping[str, Any],
        outputs: Mapping[str, Mapping[str, Output]],
        folder: StepFolder,
    ) -> Identity:
        options = self._resolved(step, outputs, content=True)
        _, parsed = parse(step, self._placed(step, given, folder.folder, name="any"))
        made = {output.value for left in outputs.values() for output in left.values()}
        identity = Identity(
            verb=step.verb.module,
            options={key: value for key, value in options.items() if key not in RESOURCES},
            inputs=self._inputs(step, parsed, made) | _logged(step, outputs),
            code={
                " ".join(modules): code_fingerprint(modules, packages) for modules, packages in step.verb.code
            },
        )
        return _newest_forced(identity, folder)

    def _inputs(self, step: Step, parsed: argparse.Namespace, made: set[str]) -> dict[str, str]:
        """Hashes of what the command line leads to, without what other steps of the workflow made."""
        hashes = {}
        for kind, path in inputs_of(step.verb, parsed):
            if str(path) in made:
                continue
            hashes[str(path)] = self._hash(step, path, folder=kind == "folder")
            if kind in ("card", "corpus"):
                hashes |= self._recordings(step, Path(str(path)), tests=kind == "corpus")
        return hashes

    def _recordings(self, step: Step, card: Path, *, tests: bool) -> dict[str, str]:
        """Hashes of the recordings of a card, and with `tests` of the recipe of its test mixtures."""
        name = f"recordings of {card}"
        if name not in self._hashes:
            self._hashes[name] = recordings_signature(card)
        hashes = {name: self._hashes[name]}
        if tests and (evaluation := read_card(card).evaluation) is not None:
            hashes[str(evaluation.recipe)] = self._hash(step, location(evaluation.recipe))
        return hashes

    def _hash(self, step: Step, path: StoragePath, *, folder: bool = False) -> str:
        if str(path) not in self._hashes:
            # Folders of recordings may be too large to read.
            found = signature(path) if folder and not path.is_file() else content_hash(path)
            if found is None:
                raise InputError(f"step '{step.name}': {path}: no such file or folder")
            self._hashes[str(path)] = found
        return self._hashes[str(path)]

    def _placed(
        self, step: Step, options: Mapping[str, Any], folder: StoragePath, *, name: str
    ) -> dict[str, Any]:
        """Options with the places of results below `folder`, the workflow's storage, and a run's name."""
        placed = dict(options)
        for key, below in step.verb.place.items():
            placed.setdefault(key, str(folder / below))
        settings = dict(placed.get("set", {}))
        if step.verb.module == "pipelines.train":
            settings.setdefault("name", name)
        if step.verb.module == "tune.sweep":
            placed.setdefault("name", name)
        if step.verb.storage == "all":
            storage = self.workflow.storage
            settings = {
                "storage.tracking_uri": storage.tracking_uri,
                "storage.experiment": storage.experiment,
                **settings,
            }
        if settings:
            placed["set"] = settings
        if step.verb.storage != "none":
            placed.setdefault("storage", self.root)
        return placed


def _logged(step: Step, outputs: Mapping[str, Mapping[str, Output]]) -> dict[str, str]:
    """Hashes of the outputs of all steps that a step needs, if it reads in MLflow what they logged."""
    needs = step.needs if step.verb.reads_mlflow else ()
    return {f"{need}.{name}": output.digest for need in needs for name, output in outputs[need].items()}


def _command(step: Step, arguments: list[str]) -> list[str]:
    subcommand = [step.verb.subcommand] if step.verb.subcommand else []
    return [sys.executable, "-m", step.verb.module, *subcommand, *arguments]


def _newest_forced(identity: Identity, folder: StepFolder) -> Identity:
    """The identity as it was last forced."""
    while folder.started(following := _next(identity)):
        identity = following
    return identity


def _next(identity: Identity) -> Identity:
    return dataclasses.replace(identity, forced=identity.forced + 1)


def _state(folder: StepFolder, identity: Identity, record: Record | None) -> tuple[State, str]:
    if record is not None:
        for name, output in record.outputs.items():
            if not is_there(output):
                return "missing", f"{name} {output.value} was deleted or changed"
        return "done", ""
    if (why := folder.failure(identity)) is not None:
        return "failed", why
    if folder.started(identity):
        return "partial", "it was started and did not finish"
    newest = folder.newest()
    if newest is None:
        return "new", ""
    return "stale", identity.difference(newest.identity)
