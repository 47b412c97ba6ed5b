"""A workflow file of quick steps on a toy corpus, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.toy_corpus import write_corpus
from tests.train_verb import TINY

MIX = {"recipe": "${folder}/corpus/recipe.yaml", "shard-examples": 8, "workers": 0}


def mix_step(seed: int) -> dict[str, Any]:
    return {"verb": "mix", "options": {"card": "${folder}/corpus/card.yaml", **MIX, "set": {"seed": seed}}}


def check_step(mix: str) -> dict[str, Any]:
    options = {"shards": f"${{{mix}.shards}}", "headers-only": True, "workers": 0}
    return {"verb": "check", "options": options}


def train_step(mix: str, steps: int) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for text in [*TINY, f"max_steps={steps}", "checkpoint_every_steps=4"]:
        key, _, value = text.partition("=")
        settings[key] = yaml.safe_load(value)
    settings["data.shards"] = f"${{{mix}.shards}}"
    return {"verb": "train", "options": {"configs": ["base"], "set": settings}}


def write_workflow(folder: Path, steps: dict[str, Any], **values: Any) -> Path:
    """Write a workflow called `toy` that stores everything in `folder`; makes the corpus if it is missing."""
    if not (folder / "corpus").exists():
        write_corpus(folder / "corpus")
    path = folder / "toy.yaml"
    tree = {
        "name": "toy",
        "params": {"folder": str(folder)},
        "storage": {"root": f"{folder}/out", "tracking_uri": f"sqlite:///{folder}/mlflow.db"},
        "steps": steps,
    }
    path.write_text(yaml.safe_dump(tree | values, sort_keys=False))
    return path


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """The record of each completed step; a step may have been completed once only."""
    found = sorted((folder / "out" / "workflows" / "toy").glob("*/*/done.json"))
    found = [path for path in found if not path.parent.is_symlink()]  # `latest`
    names = [path.parts[-3] for path in found]
    assert len(set(names)) == len(names), names
    return {name: json.loads(path.read_text()) for name, path in zip(names, found, strict=True)}
