"""Corpora: a card describes where recordings are stored; scanning it gives manifest rows."""

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
from rwsa.corpora.manifest import Clip, ClipPair, Kind, Manifest, Problem, check_disjoint
from rwsa.corpora.scanning import scan

__all__ = [
    "SPLITS",
    "Clip",
    "ClipPair",
    "CorpusCard",
    "Evaluation",
    "Kind",
    "Manifest",
    "PairSource",
    "Problem",
    "Scores",
    "Source",
    "Split",
    "check_disjoint",
    "read_card",
    "scan",
]
