"""Write the dataset page of a folder of shards: contents, distributions, audio samples, licences.

python -m pipelines.dataset_page --shards FOLDER [--out FILE.html] [--recipe FILE.yaml] [--mlflow]
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipelines.core.cli import as_location, mlflow_argument, storage_arguments, storage_of, verb
from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from pipelines.inspection.dataset_facts import DatasetFacts, SplitFacts, read_dataset_facts
from pipelines.inspection.run_datasets import shard_datasets
from pipelines.mixing.plan_table import planned_recipe
from pipelines.reports.dataset_report import DatasetSample, dataset_html
from rwsa.command_line import path_argument
from rwsa.errors import InputError
from rwsa.files import absolute_location, atomic_write
from rwsa.lease import locked
from rwsa.mixing.recipes import Recipe, read_recipe, recipe_hash
from rwsa.shards import Example, ShardReader
from rwsa.shards.index import read_index

PAGE = "dataset.html"
# Only levels require reading audio; this many examples per split show their distribution.
LEVEL_EXAMPLES = 300
AUDIO_SAMPLES = 10


@locked("out", inside=False)
def write_page(
    shards: Path,
    out: Path,
    *,
    recipe: Recipe | None = None,
    report: Callable[[str], None] = print,
) -> DatasetFacts:
    """Write the page of a folder of shards; it depends on the shards only.

    Args:
        shards: the folder, with `index.json`.
        out: HTML file to write.
        recipe: that the shards were mixed by; by default read from plan tables in the folder, if any.
        report: receives progress lines.

    Raises:
        InputError: the folder cannot be read, a shard is damaged, the shards were mixed by another recipe, or
            `out` is not writable.
    """
    facts = read_dataset_facts(shards, report)
    values = _matching_recipe(recipe, facts) if recipe is not None else _planned_recipe(shards)
    levels_dbfs = {split.split: _levels_dbfs(shards, split) for split in facts.splits}
    samples = _select_samples(shards, next(split for split in facts.splits if split.examples), AUDIO_SAMPLES)
    text = None if values is None else yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    with atomic_write(out) as temporary:
        temporary.write_text(dataset_html(facts, levels_dbfs, samples, recipe=text), encoding="utf-8")
    return facts


def log_page(storage: StorageConfig, facts: DatasetFacts, page: Path, *, shards: Path) -> str:
    """Log the page and the datasets as an MLflow run, one per index; returns the run's id.

    Training runs have the index's checksum as a parameter, too.

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
    with Tracker(storage).run(
        f"dataset {' + '.join(facts.corpora) or facts.folder}", key=key, params=params, tags=tags
    ) as run:
        run.log_datasets(*shard_datasets(facts, absolute_location(str(shards))))
        run.log_file(page)
    return run.run_id


def _matching_recipe(recipe: Recipe, facts: DatasetFacts) -> dict[str, Any]:
    if recipe_hash(recipe) not in facts.recipe_hashes:
        raise InputError(
            f"recipe {recipe.name} has the hash {recipe_hash(recipe)}, but the shards were mixed by"
            f" {' and '.join(facts.recipe_hashes) or 'an unknown recipe'}; name the recipe that mixed them,"
            " with the same settings"
        )
    return dataclasses.asdict(recipe)


def _planned_recipe(shards: Path) -> dict[str, Any] | None:
    """Recipe in the folder's first plan table; None without a plan table."""
    for path in sorted(shards.glob("*.plan.parquet")):
        try:
            return planned_recipe(path)
        except InputError as error:
            raise InputError(f"{error}, or name the recipe (--recipe)") from error
    return None


def _levels_dbfs(shards: Path, split: SplitFacts) -> np.ndarray:
    """RMS levels of noisy examples spread over the split, without digital silence."""
    count = min(LEVEL_EXAMPLES, split.examples)
    numbers = [number * split.examples // count for number in range(count)]
    powers = np.array([np.mean(np.square(e.noisy, dtype=np.float64)) for e in _read(shards, split, numbers)])
    return 10 * np.log10(powers[powers > 0])


def _select_samples(shards: Path, split: SplitFacts, count: int) -> list[DatasetSample]:
    """Examples evenly spaced from the lowest to the highest SNR; without SNRs, in the order of the shards."""
    snr_db = np.array(split.snr_db)
    # A stable sort: examples with equal SNRs stay in the order of the shards, NaN comes last.
    order = np.argsort(snr_db, kind="stable")[: np.isfinite(snr_db).sum() or None]
    positions = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    numbers = [int(order[position]) for position in positions]
    return [DatasetSample(split=split.split, example=example) for example in _read(shards, split, numbers)]


def _read(shards: Path, split: SplitFacts, numbers: Sequence[int]) -> Iterator[Example]:
    """Examples by their number within the split, one at a time."""
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
        type=path_argument,
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
    print(f"{out}: {facts.examples} examples, {facts.hours:.3f} h, index {facts.index_sha256[:12]}")
    if options.mlflow:
        run_id = log_page(storage, facts, out, shards=options.shards)
        print(f"MLflow run {run_id} in {storage.tracking_uri}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
