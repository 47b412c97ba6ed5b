"""The steps of a workflow, one per combination of `foreach`, checked before anything runs."""

from __future__ import annotations

import argparse
import graphlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.workflow.references import nearest, references_in, resolve
from pipelines.workflow.schema import StepConfig, WorkflowConfig
from pipelines.workflow.verbs import WorkflowVerb, verb_named
from rwsa.command_line import parsed
from rwsa.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a workflow.

    Attributes:
        name: of the step in the file, with the values of its `foreach`: `train-xs-0`.
        base: name of the step in the file.
        variables: values of its `foreach`.
        verb: what it does.
        options: as in the file, with references.
        needs: names of the steps that must be complete first, sorted.
        cpus, gpus: that its own process uses; `cpus` None as its command needs.
    """

    name: str
    base: str
    variables: Mapping[str, Any]
    verb: WorkflowVerb
    options: Mapping[str, Any]
    needs: tuple[str, ...]
    cpus: int | None
    gpus: int


def steps_of(workflow: WorkflowConfig) -> dict[str, Step]:
    """All steps by name, each after those it needs.

    Raises:
        InputError: a verb, an option, a step, an output or a reference does not exist, steps need each
            other in a circle, or two write the same place; the message names the step.
    """
    bases = {name: _instances(name, step, workflow.params) for name, step in workflow.steps.items()}
    steps = {}
    for base, config in workflow.steps.items():
        verb = verb_named(config.verb, where=f"step '{base}'")
        for name, variables in bases[base].items():
            steps[name] = Step(
                name=name,
                base=base,
                variables=variables,
                verb=verb,
                options=config.options,
                needs=tuple(sorted(_needs(base, config, variables, bases))),
                cpus=config.cpus,
                gpus=config.gpus,
            )
    ordered = {name: steps[name] for name in _order(steps)}
    places: dict[str, str] = {}
    for step in ordered.values():
        for place in _check(step, ordered, workflow.params):
            if place in places:
                raise InputError(
                    f"steps '{places[place]}' and '{step.name}' both write {place}; give each another place,"
                    " or none: each step has a folder of its own"
                )
            places[place] = step.name
    return ordered


def _instances(name: str, step: StepConfig, params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Names and variables of the instances of a step."""
    where = f"step '{name}': foreach"
    values = {}
    for variable, choices in step.foreach.items():
        found = resolve(choices, params, _no_outputs, where=where)
        if not isinstance(found, list | tuple) or not found:
            raise InputError(f"{where}.{variable} is {found!r}; it must be a list of at least one value")
        if variable in params:
            raise InputError(f"{where}.{variable}: is also a parameter; rename the variable")
        values[variable] = list(dict.fromkeys(found))
    instances = {}
    for chosen in itertools.product(*values.values()):
        label = "-".join([name, *(_label(value) for value in chosen)])
        if label in instances:
            raise InputError(
                f"{where}: two instances are both called '{label}'; use values that differ in their names"
            )
        instances[label] = dict(zip(values, chosen, strict=True))
    return instances


def _label(value: Any) -> str:
    """A value as part of a name: of a path its stem."""
    stem = str(value).rpartition("/")[2].removesuffix(".yaml")
    return "".join(letter if letter.isalnum() or letter in "._" else "_" for letter in stem)


def _no_outputs(step: str, output: str) -> list[Any]:
    raise InputError(f"foreach refers to ${{{step}.{output}}}; only parameters can be listed there")


def matching(variables: Mapping[str, Any], instances: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The instances of a step whose variables agree with `variables` where both have them."""
    return [
        name
        for name, values in instances.items()
        if all(variables[key] == value for key, value in values.items() if key in variables)
    ]


def _needs(
    base: str,
    config: StepConfig,
    variables: Mapping[str, Any],
    bases: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> set[str]:
    needed = set[str]()
    referred = [name for name, output in references_in(config.options) if output is not None]
    for name in (*config.needs, *referred):
        if name not in bases:
            raise InputError(f"step '{base}': needs '{name}', which is not a step{nearest(name, bases)}")
        found = matching(variables, bases[name])
        if not found:
            raise InputError(f"step '{base}': no instance of '{name}' has {dict(variables)}")
        needed.update(found)
    return needed


def _order(steps: Mapping[str, Step]) -> Sequence[str]:
    try:
        return list(
            graphlib.TopologicalSorter({name: step.needs for name, step in steps.items()}).static_order()
        )
    except graphlib.CycleError as error:
        raise InputError(f"steps need each other in a circle: {' → '.join(error.args[1])}") from None


def _check(step: Step, steps: Mapping[str, Step], params: Mapping[str, Any]) -> list[str]:
    """Parse the step's command line with stand-ins for outputs; returns the places that it names itself."""

    def stand_ins(base: str, output: str) -> list[Any]:
        found = [steps[name] for name in step.needs if steps[name].base == base]
        valid = {*found[0].verb.outputs, *found[0].variables}
        if output not in valid:
            raise InputError(f"step '{step.name}': '{base}' has no output '{output}'{nearest(output, valid)}")
        return [f"{one.name}.{output}" for one in found]

    options = resolve(step.options, {**params, **step.variables}, stand_ins, where=f"step '{step.name}'")
    parse(step, options)
    places = [str(options[key]) for key in step.verb.place if key in options]
    for kind, verb, name in (
        ("run", "pipelines.train", _setting(options, "name")),
        ("sweep", "tune.sweep", options.get("name")),
    ):
        if step.verb.module == verb and name is not None:
            places.append(f"{kind} {name}")
    return places


def _setting(options: Mapping[str, Any], key: str) -> Any:
    settings = options.get("set", {})
    return settings.get(key) if isinstance(settings, Mapping) else None


def parse(step: Step, options: Mapping[str, Any]) -> tuple[list[str], argparse.Namespace]:
    """The command line of resolved options, and what its parser makes of it.

    Raises:
        InputError: an option is unknown, missing, or has an invalid value.
    """
    where = f"step '{step.name}'"
    parser = step.verb.parser()
    arguments = _arguments(step, options, parser, where=where)
    return arguments, parsed(parser, arguments, where=where)


def _arguments(
    step: Step, options: Mapping[str, Any], parser: argparse.ArgumentParser, *, where: str
) -> list[str]:
    known = {name.removeprefix("--") for name in parser._option_string_actions if name.startswith("--")}
    known -= {"help"}
    flags, first = list[str](), list[str]()
    for key, value in options.items():
        if key == step.verb.positional:
            first = _words(value)
        elif key not in known:
            valid = known | ({step.verb.positional} if step.verb.positional else set())
            raise InputError(f"{where}: unknown option '{key}'{nearest(key, valid)}")
        elif key == "set":
            if not isinstance(value, Mapping):
                raise InputError(f"{where}: option 'set' is {value!r}; give a mapping of keys to values")
            flags += ["--set", *(f"{name}={_yaml(one)}" for name, one in value.items())]
        elif isinstance(value, bool):
            flags += [f"--{key}"] if value else []
        elif value is None:
            continue
        elif isinstance(value, Mapping):
            raise InputError(f"{where}: option '{key}' is {value!r}; give a text, a number, a list or true")
        else:
            flags += [f"--{key}", *_words(value)]
    return [*first, *flags]


def _words(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]


def _yaml(value: Any) -> str:
    """A value as `--set` reads it."""
    return value if isinstance(value, str) else json.dumps(value)
