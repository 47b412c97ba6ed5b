"""What weights were trained on: the recordings of the training split, and their licences."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwsa.corpora.cards import read_card
from rwsa.corpora.manifest import Clip, ClipPair
from rwsa.corpora.scanning import scan

# Licences of weights by what the training data's allow, the most restrictive first.
_RULES = (
    (re.compile(r"\bNC\b|non-?commercial", re.IGNORECASE), "cc-by-nc-4.0"),
    (re.compile(r"\bSA\b|share-?alike", re.IGNORECASE), "cc-by-sa-4.0"),
    (re.compile(r"^(CC BY \d|CC0|public domain|apache-2|MIT$|BSD)", re.IGNORECASE), "cc-by-4.0"),
)
_OTHER = "other"
_PART = re.compile(r"([^,;(]+?)\s*\(([^)]*)\)")


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Training data.

    Attributes:
        corpus, description: of the card.
        sources: one mapping per kind and licence: `kind`, `licence`, `hours`, `files`, and `speakers` of
            speech or `classes` of noise.
        licence: of weights trained on them, as Hugging Face names it.
    """

    corpus: str
    description: str
    sources: Sequence[Mapping[str, Any]]
    licence: str

    @property
    def commercial(self) -> bool | None:
        """Whether the licences of all training data allow commercial use; None if they are not known."""
        return None if self.licence == _OTHER else "-nc" not in self.licence


def data_facts(card: Path) -> DataFacts:
    """Scan the training split of a card.

    Raises:
        InputError: the card or its recordings cannot be read.
    """
    found = read_card(card)
    manifest = scan(found)
    rows: list[Clip | ClipPair] = [row for row in manifest.clips if row.split == "train"]
    rows += manifest.pairs_of("train")
    sources = _sources(rows)
    return DataFacts(
        corpus=found.name,
        description=found.description,
        sources=sources,
        licence=licence_of_weights(source["licence"] for source in sources),
    )


def _sources(rows: Iterable[Clip | ClipPair]) -> list[dict[str, Any]]:
    grouped: dict[tuple[str, str], list[Clip | ClipPair]] = defaultdict(list)
    for row in rows:
        kind: str = row.kind if isinstance(row, Clip) else "pairs"
        grouped[kind, training_licence(row.licence)].append(row)
    found = []
    for (kind, licence), of_kind in grouped.items():
        speakers = {row.speaker for row in of_kind} - {None}
        classes = {row.environment for row in of_kind if isinstance(row, Clip)} - {None}
        counts = {"speakers": len(speakers)} if speakers else {"classes": len(classes)} if classes else {}
        hours = sum(row.seconds for row in of_kind) / 3600
        found.append(
            {"kind": kind, "licence": licence, "files": len(of_kind), "hours": round(hours, 2), **counts}
        )
    return found


def training_licence(text: str) -> str:
    """The part of a licence that is for training: `A (training), B (validation and test)` gives `A`."""
    parts = _PART.findall(text)
    training = [licence for licence, use in parts if "training" in use]
    return ", ".join(training) if training else text


def licence_of_weights(licences: Iterable[str]) -> str:
    """The licence for weights trained on data of these: the most restrictive, `other` if one is not known.

    Whether weights are derived from their training data in the sense of these licences is not settled, so the
    weights keep to all of them.
    """
    given = [
        next((name for pattern, name in _RULES if pattern.search(one.strip())), _OTHER) for one in licences
    ]
    order = [_OTHER, *(name for _, name in _RULES)]
    return min(given, key=order.index, default=_OTHER)
