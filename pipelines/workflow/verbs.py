"""What a step of a workflow can do: the verbs, where each puts its results, and what they depend on."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

from pipelines.evaluation.score_cache import ENHANCING, MIXING, SCORING
from pipelines.workflow.references import nearest
from rwsa.errors import InputError
from rwsa.files import StoragePath, location
from rwsa.shipped import shipped_file, shipped_names

# Options that change how fast a step runs, or where it looks, but not its result.
RESOURCES = frozenset(
    {"workers", "cpus-per-worker", "gpu", "no-gpu", "gpu-trials", "address", "cache", "device"}
)
Code = tuple[tuple[str, ...], tuple[str, ...]]
TRAINING: Code = (("rwsa.training.loop",), ("audiomentations", "numba", "numpy", "pesq", "torch"))
ACOUSTICS: Code = (("rwsa.energy_distance", "rwsa.acoustics"), ("numpy",))


@dataclass(frozen=True, kw_only=True)
class WorkflowVerb:
    """A command as a step.

    Attributes:
        module: run as `python -m MODULE`.
        command: name of its command line in the module.
        subcommand: first argument, for a module with several.
        positional: the option of a workflow that stands for the positional arguments.
        place: option -> where below the step's own folder its value is, unless the step gives it.
        outputs: output -> option whose value it is; empty where the module's function `outputs_of` says it.
        reads: option -> kind, for options that name what the result depends on: `file`, `folder`, `weights`
            (a file, or the name of shipped ones), `card` (with its recordings) or `corpus` (also with the
            recipe of its test mixtures). A module with a function `inputs_of` says itself what its options
            lead to.
        code: modules and packages that decide the result.
        storage: `all` for `--storage` and `--set storage.…`, `root` for `--storage` alone, or `none`.
        cpus: of the step's own process; 0 if Ray tasks or workers do its work (but see `own_cpus`).
        dry_run: whether it has an option `--dry-run`, which estimates what it takes.
        reads_mlflow: whether it reads there what the steps in its `needs` logged, so that it rests on their
            outputs without a reference to one.
    """

    module: str
    command: str = "main"
    subcommand: str | None = None
    positional: str | None = None
    place: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    reads: Mapping[str, str] = field(default_factory=dict)
    code: Sequence[Code] = ()
    storage: str = "all"
    cpus: int = 0
    dry_run: bool = False
    reads_mlflow: bool = False

    def parser(self) -> argparse.ArgumentParser:
        """The parser of the command line."""
        return _parser(self.module, self.command, self.subcommand)


VERBS: Mapping[str, WorkflowVerb] = MappingProxyType(
    {
        "fetch": WorkflowVerb(module="pipelines.starter", outputs={"folder": "out"}, storage="none", cpus=1),
        "mix": WorkflowVerb(
            module="pipelines.mix_shards", command="mix", place={"out": "shards"}, outputs={"shards": "out"},
            reads={"card": "card", "recipe": "file"}, code=(MIXING,), storage="root",
            dry_run=True,
        ),
        "import-pairs": WorkflowVerb(
            module="pipelines.import_pairs", place={"out": "shards"}, outputs={"shards": "out"},
            reads={"card": "card"}, storage="root",
        ),
        "check": WorkflowVerb(
            module="pipelines.check", place={"json": "report.json"}, outputs={"report": "json"},
            reads={"card": "card", "shards": "folder"}, storage="none",
        ),
        "dataset-page": WorkflowVerb(
            module="pipelines.dataset_page", place={"out": "dataset.html"}, outputs={"page": "out"},
            reads={"shards": "folder", "recipe": "file"}, cpus=1,
        ),
        "domain-gap": WorkflowVerb(
            module="pipelines.domain_gap", place={"out": "domain_gap"}, outputs={"folder": "out"},
            reads={"card": "corpus", "shards": "folder"}, code=(ACOUSTICS,), cpus=1,
        ),
        "train": WorkflowVerb(
            module="pipelines.train", positional="configs", outputs={"weights": "", "name": ""},
            code=(TRAINING,), dry_run=True,
        ),
        "sweep": WorkflowVerb(
            module="tune.sweep", positional="sweep", outputs={"folder": ""}, code=(TRAINING, SCORING),
            dry_run=True,
        ),
        "evaluate": WorkflowVerb(
            module="pipelines.evaluate", place={"json": "scores.json"}, outputs={"scores": "json"},
            reads={"weights": "weights", "corpora": "corpus", "system": "folder"},
            code=(SCORING, ENHANCING, MIXING),
        ),
        "trade-off": WorkflowVerb(
            module="pipelines.trade_off", place={"out": "trade-off.html"}, outputs={"page": "out"}, cpus=1,
            reads_mlflow=True,
        ),
        "register": WorkflowVerb(
            module="pipelines.register", outputs={"model": "name"}, reads={"weights": "weights"}, cpus=1,
        ),
        "results-page": WorkflowVerb(
            module="tune.results_page", place={"out": "results"}, outputs={"folder": "out"},
            reads={"sweeps": "folder", "scores": "file"}, storage="none", cpus=1,
        ),
        "publish": WorkflowVerb(
            module="pipelines.publish", place={"out": "weights"}, outputs={"folder": "out"},
            reads={"weights": "file", "scores": "file"}, code=(ENHANCING,), cpus=1,
        ),
        "enhance": WorkflowVerb(
            module="rwsa.cli", subcommand="enhance", positional="inputs", place={"out": "enhanced"},
            outputs={"folder": "out"}, reads={"inputs": "folder", "weights": "weights"}, code=(ENHANCING,),
            storage="none", cpus=1,
        ),
        "score": WorkflowVerb(
            module="rwsa.cli", subcommand="score", place={"json": "scores.json"}, outputs={"scores": "json"},
            reads={"clean": "folder", "enhanced": "folder"}, code=(SCORING,), storage="none", cpus=1,
        ),
    }
)  # fmt: skip


def inputs_of(verb: WorkflowVerb, options: argparse.Namespace) -> Iterator[tuple[str, StoragePath]]:
    """What a parsed command line reads, as (kind, location); see `WorkflowVerb.reads`.

    Raises:
        InputError: a configuration that it names cannot be read.
    """
    module = importlib.import_module(verb.module)
    if hasattr(module, "inputs_of"):
        yield from module.inputs_of(options)
    for option, kind in verb.reads.items():
        found = _value(verb, options, option)
        for value in found if isinstance(found, list) else [] if found is None else [found]:
            path = location(_without_name(str(value)))
            shipped = kind == "weights" and str(path) in shipped_names()
            yield kind, shipped_file(str(path)) if shipped else path
    if verb.subcommand == "enhance" and options.weights is None and options.untrained is None:
        yield "weights", shipped_file()


def outputs_of(verb: WorkflowVerb, options: argparse.Namespace) -> dict[str, tuple[str, bool]]:
    """What a parsed command line leaves: output -> its value, and whether that is a location.

    Raises:
        InputError: a configuration that it names cannot be read.
    """
    module = importlib.import_module(verb.module)
    if hasattr(module, "outputs_of"):
        return dict(module.outputs_of(options))
    return {
        output: (str(_value(verb, options, option) or ""), option != "name")
        for output, option in verb.outputs.items()
    }


def own_cpus(verb: WorkflowVerb, options: argparse.Namespace) -> int:
    """The CPUs of the step's own process, which does all of the work with `--workers 0`."""
    if getattr(options, "workers", None) == 0:
        return max(verb.cpus, getattr(options, "cpus_per_worker", 1))
    return verb.cpus


def runs_alone(verb: WorkflowVerb, options: argparse.Namespace) -> bool:
    """Whether no other step may run beside it, as its module's function `runs_alone` says."""
    module = importlib.import_module(verb.module)
    return hasattr(module, "runs_alone") and bool(module.runs_alone(options))


def _value(verb: WorkflowVerb, options: argparse.Namespace, option: str) -> Any:
    """The value of an option, or of the positional arguments that it stands for."""
    action = verb.parser()._option_string_actions.get(f"--{option}")
    return getattr(options, option if action is None else action.dest)


def _without_name(text: str) -> str:
    """`NAME=FILE` without the name."""
    name, equals, rest = text.partition("=")
    return rest if equals and "/" not in name else text


def verb_named(name: str, *, where: str) -> WorkflowVerb:
    """A verb by its name.

    Raises:
        InputError: there is none; the message names the nearest.
    """
    if name not in VERBS:
        raise InputError(f"{where}: unknown verb '{name}'{nearest(name, VERBS)}")
    return VERBS[name]


@cache
def _parser(module: str, command: str, subcommand: str | None) -> argparse.ArgumentParser:
    main = getattr(importlib.import_module(module), command)
    parser: argparse.ArgumentParser = main.parser()
    if subcommand is None:
        return parser
    choices = next(action.choices for action in parser._actions if isinstance(action.choices, dict))
    found: argparse.ArgumentParser = choices[subcommand]
    return found
