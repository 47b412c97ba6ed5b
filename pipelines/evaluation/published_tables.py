"""Published score tables, from `datasets/published`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rwsa.config import build_with_variables, config, read_yaml
from rwsa.errors import InputError

TABLE1: Final = Path(__file__).parents[2] / "datasets" / "published" / "table1.yaml"


@config
class PublishedRow:
    """A row of the file; a cell is a mean, or a mean and its standard deviation over seeds."""

    model: str
    scores: dict[str, tuple[float | tuple[float, float], ...]]
    parameters_millions: float | None = None
    giga_flops: float | None = None


@config
class PublishedTable:
    """A table of models by corpora by metrics.

    Attributes:
        title: of the publication.
        in_domain: the corpus that the models were trained on.
        corpora: card name -> the name in print.
        metrics: in the order of a row's cells.
    """

    title: str
    in_domain: str
    corpora: dict[str, str]
    metrics: tuple[str, ...]
    rows: tuple[PublishedRow, ...]

    def cells(self, row: PublishedRow, corpus: str) -> dict[str, Cell]:
        """The cells of a row for a corpus, by metric."""
        return dict(zip(self.metrics, map(_cell, row.scores[corpus]), strict=True))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A published mean, with its standard deviation over seeds if that is published."""

    mean: float
    std: float | None = None


def read_published(path: Path = TABLE1) -> PublishedTable:
    """Read and check a table.

    Raises:
        InputError: a row lacks a corpus or a cell, or see `rwsa.config.build`.
    """
    table = build_with_variables(PublishedTable, read_yaml(path), where=str(path))
    for row in table.rows:
        for corpus in table.corpora:
            count = len(row.scores.get(corpus, ()))
            if count != len(table.metrics):
                raise InputError(
                    f"{path}: row {row.model} has {count} cells for {corpus}; give {len(table.metrics)}"
                )
    return table


def _cell(value: float | tuple[float, float]) -> Cell:
    return Cell(mean=value[0], std=value[1]) if isinstance(value, tuple) else Cell(mean=value)
