"""The YAML of a workflow: parameters, storage, and named steps."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pipelines.core.storage import StorageConfig
from rwsa.config import build, config, read_yaml, with_settings
from rwsa.errors import InputError
from rwsa.variables import replace_variables

# A dot separates a step from its output, as in `${mix.shards}`.
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")


@config
class StepConfig:
    """One step, or one for each combination of the values of `foreach`.

    Attributes:
        verb: what it does; see `pipelines.workflow.verbs`.
        options: options of the verb's command line, without the dashes. `true` gives a flag, `null` leaves an
            option out; a mapping under `set` gives settings.
        needs: steps that must be complete first, in addition to those whose outputs are referred to.
        foreach: variable -> values, or a reference to a parameter that is a list.
        cpus, gpus: that the step's own process uses. By default the verb's: none where its work is done by
            Ray tasks or workers, which ask for their own.
    """

    verb: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    needs: tuple[str, ...] = ()
    foreach: dict[str, Any] = dataclasses.field(default_factory=dict)
    cpus: Annotated[int, Field(ge=0, le=1024)] | None = None
    gpus: Annotated[int, Field(ge=0, le=64)] = 0


@config
class WorkflowConfig:
    """A workflow file.

    Attributes:
        name: the folder of its state and results, `ROOT/workflows/NAME`.
        description: what it answers or makes.
        params: values that steps refer to as `${NAME}`, and that `--set NAME=VALUE` changes. In them,
            environment variables `${RWSA_…}` and `${RWSA_…:-default}` are replaced.
        smoke: parameters for a run of minutes on two cores, applied by `--smoke`.
        storage: where results go, and the MLflow experiment that records them.
        steps: by name.
    """

    name: str
    description: str = ""
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    smoke: dict[str, Any] = dataclasses.field(default_factory=dict)
    storage: StorageConfig = StorageConfig()
    steps: dict[str, StepConfig]

    def __post_init__(self) -> None:
        for kind, names in (("name", [self.name]), ("params", self.params), ("steps", self.steps)):
            for name in names:
                if not _NAME.fullmatch(name):
                    raise ValueError(
                        f"{kind}: '{name}' must be up to 40 of a-z, 0-9, - and _, a letter first"
                    )
        if not self.steps:
            raise ValueError("steps: there is none")
        if both := sorted(set(self.params) & set(self.steps)):
            raise ValueError(f"'{both[0]}' is both a parameter and a step; rename one")


def read_workflow(path: Path, settings: Iterable[str] = (), *, smoke: bool = False) -> WorkflowConfig:
    """Read a workflow file.

    Args:
        path: of the YAML file.
        settings: `NAME=VALUE` of parameters, or `storage.KEY=VALUE`.
        smoke: apply the parameters under `smoke` first.

    Raises:
        InputError: the file cannot be read; a key, a parameter or a value is invalid.
    """
    workflow = build(WorkflowConfig, read_yaml(path), where=str(path))
    return _with_params(workflow, settings, smoke=smoke, where=str(path))


def _with_params(
    workflow: WorkflowConfig, settings: Iterable[str], *, smoke: bool, where: str
) -> WorkflowConfig:
    params, storage = dict(workflow.params), dict[str, Any]()
    changes = [workflow.smoke] if smoke else []
    for text in settings:
        values = with_settings({}, [text])
        storage |= values.pop("storage", {})
        changes.append(values)
    for values in changes:
        for name, value in values.items():
            params[name] = _checked(name, value, params, where=where)
    params |= _with_variables(params, where=where)
    merged = build(StorageConfig, dataclasses.asdict(workflow.storage) | storage, where=f"{where}: storage")
    return dataclasses.replace(workflow, params=params, storage=merged)


def _with_variables(params: dict[str, Any], *, where: str) -> dict[str, Any]:
    """The parameters that use the project's environment variables, replaced."""
    used = {name: value for name, value in params.items() if "${RWSA_" in str(value)}
    return replace_variables(used, [at for name in used for at in ((name,), (name, "*"))], where=where)


def _checked(name: str, value: Any, params: dict[str, Any], *, where: str) -> Any:
    """The new value of a parameter, which must be of its kind."""
    if name not in params:
        raise InputError(f"{where}: has no parameter '{name}'; it has {', '.join(sorted(params)) or 'none'}")
    old = params[name]
    numbers = (int, float)
    alike = (
        isinstance(value, numbers)
        and isinstance(old, numbers)
        and isinstance(value, bool) == isinstance(old, bool)
    )
    if old is not None and type(value) is not type(old) and not alike:
        raise InputError(
            f"{where}: parameter '{name}' is {value!r}, a {type(value).__name__}; it must be a"
            f" {type(old).__name__} like {old!r}"
        )
    return value
