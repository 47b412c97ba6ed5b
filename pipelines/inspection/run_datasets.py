"""The datasets of runs: what shards, mixing and test clips are in MLflow's terms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.core.datasets import Context, LoggedDataset, dataset_name, digest_of, short_digest, snr_range
from pipelines.inspection.dataset_facts import DatasetFacts
from pipelines.mixing.plan_table import UNREADABLE, plan_path, planned_recipe
from rwsa.config import as_mapping
from rwsa.errors import InputError
from rwsa.files import StoragePath, location
from rwsa.mixing.recipes import Recipe
from rwsa.shards.index import index_sha256, read_index
from rwsa.training.config import DataConfig, card_of, recipe_of


def training_datasets(data: DataConfig) -> list[LoggedDataset]:
    """What a training run trains on and validates on.

    Raises:
        InputError: the shards, card or recipe cannot be used.
    """
    if data.overfit is not None:
        return [_dataset(data, data.train, "training", share={"examples_used": data.overfit})]
    share = {} if data.train_share == 1 else {"share_used": data.train_share}
    valid = {} if data.valid_examples is None else {"examples_used": data.valid_examples}
    return [
        _dataset(data, data.train, "training", share=share),
        _dataset(data, data.valid, "validation", share=valid),
    ]


def shard_datasets(facts: DatasetFacts, folder: str) -> list[LoggedDataset]:
    """The splits of a folder of shards whose every example was read."""
    contexts: dict[str, Context] = {"valid": "validation", "test": "test"}
    return [
        LoggedDataset(
            name=dataset_name(list(facts.corpora), split.split),
            digest=short_digest(facts.index_sha256),
            source=folder,
            context=contexts.get(split.split, "training"),
            profile={
                "examples": split.examples,
                "hours": round(split.hours, 3),
                "speakers": split.speakers or None,
                **snr_range([one for one in split.snr_db if math.isfinite(one)]),
            },
        )
        for split in facts.splits
    ]


def _dataset(data: DataConfig, split: Any, context: Context, *, share: Mapping[str, Any]) -> LoggedDataset:
    if data.mix is not None and split in data.mix.splits:
        card, recipe = card_of(data.mix), recipe_of(data.mix)
        about = [as_mapping(card), as_mapping(recipe), data.mix.fresh, data.mix.shard_examples]
        return LoggedDataset(
            name=dataset_name(card.name, split),
            digest=digest_of(about),
            source=data.mix.card if isinstance(data.mix.card, str) else card.name,
            context=context,
            profile={"examples": recipe.examples.get(split, 0), **_planned_range(recipe), **share},
        )
    folder = location(data.shards or "")
    index = read_index(folder, split)
    return LoggedDataset(
        name=dataset_name([name for name in index.corpora if name], split),
        digest=short_digest(index_sha256(folder)),
        source=str(folder),
        context=context,
        profile={
            "examples": sum(index.shard_sizes),
            "hours": round(index.seconds / 3600, 3),
            **_plan_profile(folder, split),
            **share,
        },
    )


def _plan_profile(folder: StoragePath, split: str) -> dict[str, Any]:
    """Speakers and SNR range from the plan beside the shards; empty where there is none, as with pairs."""
    path = plan_path(folder, split)
    try:
        planned_recipe(path)
        with path.open("rb") as file:
            table = pq.read_table(file, columns=["speaker", "snr_db"])
    except (InputError, *UNREADABLE):
        return {}
    speakers = {name for name in table["speaker"].unique().to_pylist() if name is not None}
    found = pc.min_max(table["snr_db"]).as_py().values()
    return {"speakers": len(speakers) or None, **snr_range([one for one in found if one is not None])}


def _planned_range(recipe: Recipe) -> dict[str, float]:
    values = recipe.snr_grid_db or (recipe.min_snr_db, recipe.max_snr_db)
    return snr_range([one for one in values if one is not None])
