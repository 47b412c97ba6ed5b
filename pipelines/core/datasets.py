"""Datasets as MLflow's pages show, filter and compare them: name, digest, source, schema and profile."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal
from urllib.parse import urlsplit

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Array
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from pipelines.core.mlflow_guard import tracked_text

Context = Literal["training", "validation", "test"]

_NAME_CHARACTERS = 500  # MLflow's limit
_DIGEST_CHARACTERS = 16  # of 36 that MLflow allows, as its pages show all of them
_MANY = 3  # names of corpora that a dataset's name has room for


@dataclass(frozen=True, kw_only=True)
class LoggedDataset:
    """Examples that a run trained on, validated on or was scored on.

    Attributes:
        name: of corpora and split; see `dataset_name`.
        digest: hash of the content; equal name and digest are one dataset in MLflow.
        source: folder of shards, or card.
        context: what the run used it for.
        profile: facts such as hours and speakers; None is left out.
    """

    name: str
    digest: str
    source: str
    context: Context
    profile: Mapping[str, Any]

    def record(self) -> dict[str, str]:
        """The values of MLflow's entity, and the context."""
        scheme = urlsplit(self.source).scheme
        facts = {name: value for name, value in self.profile.items() if value is not None}
        return {
            "name": self.name,
            "digest": self.digest,
            "source_type": scheme if "://" in self.source else "local",
            "source": json.dumps({"uri": tracked_text(self.source)}),
            "schema": _schema(),
            "profile": json.dumps(facts),
            "context": self.context,
        }


def dataset_name(corpora: str | list[str], split: str) -> str:
    """`libri-esc50 train`; of more than three corpora, the first and the number of the others."""
    names = [corpora] if isinstance(corpora, str) else corpora
    if len(names) > _MANY:
        names = [*names[: _MANY - 1], f"{len(names) - _MANY + 1} more"]
    return tracked_text(f"{' + '.join(names) or 'unnamed'} {split}")[:_NAME_CHARACTERS]


def short_digest(sha256: str) -> str:
    """The first digits of a hash, by which MLflow tells datasets of one name apart."""
    return sha256[:_DIGEST_CHARACTERS]


def digest_of(values: Any) -> str:
    """Digest of values that JSON can hold."""
    return short_digest(hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest())


def snr_range(snr_db: Sequence[float]) -> dict[str, float]:
    """The range of SNRs as a profile has it; empty without any."""
    return {"min_snr_db": round(min(snr_db), 2), "max_snr_db": round(max(snr_db), 2)} if snr_db else {}


def dataset_input(record: Mapping[str, str]) -> DatasetInput:
    """MLflow's entity of `LoggedDataset.record`."""
    values = dict(record)
    context = values.pop("context")
    return DatasetInput(Dataset(**values), tags=[InputTag(MLFLOW_DATASET_CONTEXT, context)])


@cache
def _schema() -> str:
    """The columns of an example, as MLflow's pages list them."""
    signal = Array(DataType.float)
    columns: list[ColSpec | TensorSpec] = [
        ColSpec(signal, "noisy"),
        ColSpec(signal, "clean"),
        ColSpec(DataType.long, "sample_rate_hz"),
        ColSpec(DataType.double, "snr_db", required=False),
        ColSpec(DataType.string, "speaker", required=False),
        ColSpec(DataType.string, "environment", required=False),
    ]
    return json.dumps({"mlflow_colspec": Schema(columns).to_dict()})
