"""Workflow files: references, foreach, and errors that name the nearest right word before anything runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.run import select
from pipelines.workflow.prepare import Preparation
from pipelines.workflow.schema import read_workflow
from pipelines.workflow.steps import parse, steps_of
from pipelines.workflow.verbs import VERBS, own_cpus, runs_alone
from rwsa.errors import InputError

MIX = {"verb": "mix", "options": {"card": "card.yaml", "recipe": "recipe.yaml"}}
TRAIN = {
    "verb": "train",
    "foreach": {"size": ["xs", "s"], "seed": "${seeds}"},
    "options": {"configs": ["base", "${size}"], "set": {"data.shards": "${mix.shards}", "seed": "${seed}"}},
}
EVALUATE = {
    "verb": "evaluate",
    "options": {"weights": ["${train.size}=${train.weights}"], "corpora": ["${corpora}", "c.yaml"]},
}


CARD = """
{{name: toy, description: Toy., sample_rate_hz: 16000, licence: CC0,
 speech: [{{root: {root}/speech, pattern: '(?P<speaker>.+)', split: train}}]}}
"""


def card_in(folder: Path) -> Path:
    """A card, a recipe and one recording."""
    (folder / "speech").mkdir()
    (folder / "speech" / "a.wav").write_bytes(b"a")
    (folder / "recipe.yaml").write_text("b")
    path = folder / "card.yaml"
    path.write_text(CARD.format(root=folder))
    return path


def written(folder: Path, **changes: Any) -> Path:
    values = {
        "name": "toy",
        "params": {"seeds": [0, 1], "corpora": ["a.yaml", "b.yaml"], "rate": 0.5},
        "smoke": {"seeds": [0]},
        "storage": {"root": str(folder / "out")},
        "steps": {"mix": MIX, "train": TRAIN, "evaluate": EVALUATE},
    }
    path = folder / "workflow.yaml"
    path.write_text(yaml.safe_dump(values | changes, sort_keys=False))
    return path


def test_instances_and_their_order(tmp_path: Path) -> None:
    steps = steps_of(read_workflow(written(tmp_path)))
    trained = ["train-xs-0", "train-xs-1", "train-s-0", "train-s-1"]
    assert sorted(steps) == sorted(["mix", *trained, "evaluate"])
    assert next(iter(steps)) == "mix"
    assert list(steps)[-1] == "evaluate"
    assert steps["evaluate"].needs == tuple(sorted(trained))


def test_an_instance_needs_the_instances_that_agree(tmp_path: Path) -> None:
    score = {"verb": "register", "foreach": {"seed": "${seeds}"}, "options": {"weights": "${train.weights}"}}
    with pytest.raises(InputError, match=r"step 'score-0'.*'\$\{train.weights\}' stands for 2 values"):
        steps_of(read_workflow(written(tmp_path, steps={"mix": MIX, "train": TRAIN, "score": score})))
    score["foreach"] = {"size": ["xs", "s"], "seed": "${seeds}"}
    steps = steps_of(read_workflow(written(tmp_path, steps={"mix": MIX, "train": TRAIN, "score": score})))
    assert steps["score-s-1"].needs == ("train-s-1",)


def test_smoke_and_settings(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert read_workflow(path, smoke=True).params["seeds"] == [0]
    changed = read_workflow(path, ["seeds=[3]", "storage.experiment=mine"], smoke=True)
    assert changed.params["seeds"] == [3]
    assert changed.storage.experiment == "mine"
    assert changed.storage.root == str(tmp_path / "out")
    for setting, message in (
        ("seed=[3]", "has no parameter 'seed'; it has corpora, rate, seeds"),
        ("seeds=3", "parameter 'seeds' is 3, a int; it must be a list"),
        ("rate=high", "it must be a float like 0.5"),
        ("storage.rot=x", "unknown key 'rot'; did you mean 'root'?"),
    ):
        with pytest.raises(InputError, match=message):
            read_workflow(path, [setting])


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"mix": {"verb": "mixx"}}, r"step 'mix': unknown verb 'mixx'; did you mean 'mix'\?"),
        ({"mix": MIX | {"options": {"crad": "x"}}}, r"unknown option 'crad'; did you mean 'card'\?"),
        ({"mix": {"verb": "mix", "options": {"card": "x"}}}, "arguments are required: --recipe"),
        ({"mix": MIX | {"needs": ["mox"]}}, r"needs 'mox', which is not a step; did you mean 'mix'\?"),
        ({"mix": MIX | {"verbs": 1}}, r"unknown key 'steps.mix.verbs'; did you mean 'verb'\?"),
        ({"a": MIX | {"needs": ["b"]}, "b": MIX | {"needs": ["a"]}}, "in a circle: [ab] → [ab] → [ab]"),
        ({"mix": MIX | {"foreach": {"n": []}}}, r"foreach.n is \[\]; it must be a list of at least one"),
        ({"mix": MIX | {"foreach": {"seeds": [1]}}}, "foreach.seeds: is also a parameter"),
        (
            {"mix": MIX, "train": {"verb": "train", "options": {"configs": "${mix.shard}"}}},
            "no output 'shard'; did you mean 'shards'",
        ),
        (
            {"mix": {"verb": "mix", "options": {"card": "${crd}"}}},
            r"\$\{crd\} is neither a parameter nor a variable",
        ),
        ({"mix": MIX | {"options": {"workers": "two"}}}, "argument --workers: invalid int value: 'two'"),
        ({"mix": MIX | {"options": {"card": {"a": 1}}}}, "option 'card' is {'a': 1}; give a text"),
        ({}, "steps: there is none"),
        ({"Mix": MIX}, "steps: 'Mix' must be up to 40 of a-z"),
        ({"seeds": MIX}, "'seeds' is both a parameter and a step"),
    ],
)  # fmt: skip
def test_errors_before_anything_runs(tmp_path: Path, steps: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        steps_of(read_workflow(written(tmp_path, steps=steps)))


def test_selecting(tmp_path: Path) -> None:
    steps = steps_of(read_workflow(written(tmp_path)))
    assert select(steps) == list(steps)
    assert select(steps, only=["train"]) == [name for name in steps if name.startswith("train")]
    assert set(select(steps, first=["train-xs-0"])) == {"train-xs-0", "evaluate"}
    assert set(select(steps, last=["train-s-1"])) == {"mix", "train-s-1"}
    assert select(steps, first=["train-s-1"], last=["train-s-1"]) == ["train-s-1"]
    with pytest.raises(InputError, match=r"--only trian: is not a step; did you mean 'train'\?"):
        select(steps, only=["trian"])


def test_the_command_of_a_step(tmp_path: Path) -> None:
    options = {
        "card": str(card_in(tmp_path)), "recipe": str(tmp_path / "recipe.yaml"), "splits": ["train"],
        "strict": True, "set": {"seed": 3, "name": "x"},
    }  # fmt: skip
    workflow = read_workflow(written(tmp_path, steps={"mix": {"verb": "mix", "options": options}}))
    steps = steps_of(workflow)
    prepared = Preparation(workflow, steps).prepare(steps["mix"], {})
    assert prepared.state == "new"
    arguments, parsed = parse(steps["mix"], options)
    assert arguments[-3:] == ["--set", "seed=3", "name=x"]
    assert parsed.strict
    assert prepared.places["shards"][0] == str(
        tmp_path / "out" / "workflows" / "toy" / "mix" / prepared.identity.digest / "shards"
    )


def test_identity_follows_what_a_step_reads(tmp_path: Path) -> None:
    options = {"card": str(card_in(tmp_path)), "recipe": str(tmp_path / "recipe.yaml"), "workers": 1}

    def digest(**changes: Any) -> str:
        step = {"verb": "mix", "options": options | changes}
        workflow = read_workflow(written(tmp_path, steps={"mix": step}))
        steps = steps_of(workflow)
        return Preparation(workflow, steps).prepare(steps["mix"], {}).identity.digest

    first = digest()
    assert digest(workers=7) == first
    assert digest(splits=["train"]) != first
    (tmp_path / "recipe.yaml").write_text("other")
    second = digest()
    assert second != first
    (tmp_path / "speech" / "b.wav").write_bytes(b"b")
    assert digest() not in (first, second)
    with pytest.raises(InputError, match=r"step 'mix': nowhere.yaml: no such file"):
        digest(recipe="nowhere.yaml")


def test_what_computes_without_ray_takes_cpus_or_runs_alone() -> None:
    train, sweep = VERBS["train"], VERBS["sweep"]
    words = ["base", "--cpus-per-worker", "3", "--workers"]
    assert [own_cpus(train, train.parser().parse_args([*words, count])) for count in ("0", "2")] == [3, 0]
    assert own_cpus(VERBS["mix"], argparse.Namespace(workers=0)) == 1
    assert own_cpus(VERBS["mix"], argparse.Namespace(workers=None)) == 0
    for name, alone in (("demo", True), ("sharing", False)):
        options = sweep.parser().parse_args([f"tune/ablations/{name}.yaml"])
        assert (runs_alone(sweep, options), own_cpus(sweep, options)) == (alone, 0)
    assert not runs_alone(train, train.parser().parse_args([*words, "0"]))
