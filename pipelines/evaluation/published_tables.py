"""Published score tables, from `datasets/published`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rwsa.config import build_with_variables, config, read_yaml
from rwsa.errors import InputError

_FOLDER = Path(__file__).parents[2] / "datasets" / "published"
TABLE1: Final = _FOLDER / "table1.yaml"
PEERS: Final = _FOLDER / "peers.yaml"


@config
class PublishedRow:
    """A row of the file; a cell is a mean, or a mean and its standard deviation over seeds.

    Attributes:
        scores: corpus -> its cells; None if it was not scored.
        trained_on: if that differs from row to row.
        source: of the model, if that differs from row to row.
    """

    model: str
    scores: dict[str, tuple[float | tuple[float, float], ...] | None]
    parameters_millions: float | None = None
    giga_flops: float | None = None
    trained_on: str | None = None
    source: str | None = None

    @property
    def about(self) -> str:
        """Size, and training data if the row gives them."""
        size = "" if self.parameters_millions is None else f"{self.parameters_millions:.{self._digits}f} M"
        flops = "" if self.giga_flops is None else f"{self.giga_flops:.2f} GFLOPs"
        return " · ".join(filter(None, (size, flops, self.trained_on)))

    @property
    def _digits(self) -> int:
        """Two decimals, as in print; small networks need a third."""
        return 2 if self.parameters_millions is None or self.parameters_millions >= 1 else 3


@config
class PublishedTable:
    """A table of models by corpora by metrics.

    Attributes:
        title: of the publication.
        in_domain: the corpus that all models were trained on; None if each row says it.
        corpora: card name -> the name in print.
        metrics: in the order of a row's cells.
    """

    title: str
    in_domain: str | None
    corpora: dict[str, str]
    metrics: tuple[str, ...]
    rows: tuple[PublishedRow, ...]

    def cells(self, row: PublishedRow, corpus: str) -> dict[str, Cell]:
        """The cells of a row for a corpus, by metric."""
        scores = row.scores[corpus]
        return {} if scores is None else dict(zip(self.metrics, map(_cell, scores), strict=True))


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
            scores = row.scores.get(corpus, ())
            count = 0 if scores is None else len(scores)
            if scores is not None and count != len(table.metrics):
                raise InputError(
                    f"{path}: row {row.model} has {count} cells for {corpus}; give {len(table.metrics)}"
                )
    return table


def published_tables() -> tuple[PublishedTable, ...]:
    """The paper's Table 1, and public enhancers on the published pairs."""
    return read_published(TABLE1), read_published(PEERS)


def _cell(value: float | tuple[float, float]) -> Cell:
    return Cell(mean=value[0], std=value[1]) if isinstance(value, tuple) else Cell(mean=value)
