"""The card page of a folder of shards: what is in it, how it is distributed, how it sounds, whose it is.

python -m pipelines.dataset_page --shards FOLDER [--out FILE.html] [--recipe FILE.yaml] [--mlflow]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import yaml

from pipelines.core.cli import as_location, mlflow_argument, storage_arguments, storage_of, verb
from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from pipelines.inspection.dataset_facts import DatasetFacts, SplitFacts, read_facts
from pipelines.reports.dataset_report import HeardExample, render_page
from rwsa.errors import InputError
from rwsa.files import atomic_write
from rwsa.mixing.recipes import Recipe, read_recipe, recipe_hash
from rwsa.shards import Example, ShardReader
from rwsa.shards.index import read_index

PAGE = "dataset.html"
# Levels alone are measured on the audio; so many examples a split show their distribution.
LEVEL_EXAMPLES = 300
HEARD_EXAMPLES = 10
_PLAN_KEY = b"rwsa.plan"


def write_page(
    shards: Path,
    out: Path,
    *,
    recipe: Recipe | None = None,
    report: Callable[[str], None] = print,
) -> DatasetFacts:
    """Write the page of a folder of shards; the same shards give the same page.

    Args:
        shards: the folder, with its `index.json`.
        out: file to write, HTML.
        recipe: that the shards were mixed by; read from the plan tables in the folder if they are there.
        report: takes progress lines.

    Raises:
        InputError: the folder cannot be read, a shard is damaged, the recipe is another, or `out` is
            not writable.
    """
    facts = read_facts(shards, report)
    values = _checked(recipe, facts) if recipe is not None else _planned_recipe(shards)
    levels_dbfs = {split.split: _levels_dbfs(shards, split) for split in facts.splits}
    heard = _heard(shards, next(split for split in facts.splits if split.examples), HEARD_EXAMPLES)
    text = None if values is None else yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    with atomic_write(out) as aside:
        aside.write_text(render_page(facts, levels_dbfs, heard, recipe=text), encoding="utf-8")
    return facts


def log_page(storage: StorageConfig, facts: DatasetFacts, page: Path) -> str:
    """Log the page as an MLflow run, one for each index; returns the run's id.

    A training run that has the index's checksum among its parameters can be traced to it.

    Raises:
        InputError: MLflow does not answer.
    """
    params = {
        "index_sha256": facts.index_sha256,
        "corpora": ", ".join(facts.corpora),
        "recipe_hashes": ", ".join(facts.recipe_hashes),
        **{
            split.split: {
                "examples": split.examples,
                "hours": f"{split.hours:.3f}",
                "speakers": split.speakers,
                "failures": split.failed,
            }
            for split in facts.splits
        },
    }
    tags = {"rwsa.kind": "dataset", "rwsa.index_sha256": facts.index_sha256}
    key = f"dataset-{facts.index_sha256}"
    with Tracker(storage).run(f"dataset {facts.folder}", key=key, params=params, tags=tags) as run:
        run.file(page)
    return run.run_id


def _checked(recipe: Recipe, facts: DatasetFacts) -> dict[str, Any]:
    if recipe_hash(recipe) not in facts.recipe_hashes:
        raise InputError(
            f"recipe {recipe.name} has the hash {recipe_hash(recipe)}, but the shards were mixed by"
            f" {' and '.join(facts.recipe_hashes) or 'none that is known'}; give the recipe that made them,"
            " with the same settings"
        )
    return dataclasses.asdict(recipe)


def _planned_recipe(shards: Path) -> dict[str, Any] | None:
    """The recipe as the first plan table in the folder has it; None without one."""
    for path in sorted(shards.glob("*.plan.parquet")):
        with path.open("rb") as file:
            try:
                metadata = pyarrow.parquet.read_metadata(file).metadata or {}
                return dict(json.loads(metadata[_PLAN_KEY])["recipe"])
            except (pyarrow.ArrowException, OSError, KeyError, ValueError) as error:
                raise InputError(
                    f"{path}: not a plan table ({error}); delete it, or name the recipe (--recipe)"
                ) from error
    return None


def _levels_dbfs(shards: Path, split: SplitFacts) -> np.ndarray:
    """RMS of noisy examples spread over the split; digital silence is left out."""
    count = min(LEVEL_EXAMPLES, split.examples)
    wanted = [number * split.examples // count for number in range(count)]
    powers = np.array([np.mean(np.square(e.noisy, dtype=np.float64)) for e in _read(shards, split, wanted)])
    return 10 * np.log10(powers[powers > 0])


def _heard(shards: Path, split: SplitFacts, count: int) -> list[HeardExample]:
    """Examples from the lowest to the highest SNR, evenly between; in the order of the shards without one."""
    snr_db = np.array(split.snr_db)
    # A stable sort: examples of one SNR stay in the order of the shards, and NaN comes last.
    order = np.argsort(snr_db, kind="stable")[: np.isfinite(snr_db).sum() or None]
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    wanted = [int(order[place]) for place in places]
    return [HeardExample(split=split.split, example=example) for example in _read(shards, split, wanted)]


def _read(shards: Path, split: SplitFacts, numbers: Sequence[int]) -> Iterator[Example]:
    """Examples by their number within the split, one in memory at a time."""
    if not numbers:
        return
    index = read_index(shards, split.split)
    with ShardReader(index, max_open=1) as reader:
        for number in numbers:
            yield reader.read(*index.locate(number))


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shards", type=as_location, required=True, metavar="FOLDER", help="folder of shards"
    )
    parser.add_argument(
        "--out",
        type=as_location,
        metavar="FILE.html",
        help=f"page to write (default: {PAGE} in the folder of shards)",
    )
    parser.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE.yaml",
        help="recipe that the shards were mixed by (default: the one in their plan)",
    )


@verb("pipelines.dataset_page", __doc__, _arguments, mlflow_argument, storage_arguments)
def main(options: argparse.Namespace) -> int:
    """Command line; returns the exit status."""
    out = options.out or options.shards / PAGE
    storage = storage_of(options)
    recipe = None if options.recipe is None else read_recipe(options.recipe)
    facts = write_page(options.shards, out, recipe=recipe)
    run_id = log_page(storage, facts, out) if options.mlflow else None
    print(f"{out}: {facts.examples} examples, {facts.hours:.3f} h, index {facts.index_sha256[:12]}")
    if run_id is not None:
        print(f"MLflow run {run_id} in {storage.tracking_uri}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
