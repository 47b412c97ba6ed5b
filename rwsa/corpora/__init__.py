"""Corpora: a card says where recordings lie, scanning it gives manifest rows."""

from __future__ import annotations

from rwsa.corpora.cards import (
    SPLITS,
    CorpusCard,
    Evaluation,
    PairSource,
    Scores,
    Source,
    Split,
    read_card,
)
from rwsa.corpora.manifest import Clip, Kind, Manifest, Pair, Problem, check_disjoint
from rwsa.corpora.scanning import scan

__all__ = [
    "SPLITS",
    "Clip",
    "CorpusCard",
    "Evaluation",
    "Kind",
    "Manifest",
    "Pair",
    "PairSource",
    "Problem",
    "Scores",
    "Source",
    "Split",
    "check_disjoint",
    "read_card",
    "scan",
]
