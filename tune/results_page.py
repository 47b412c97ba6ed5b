"""One page with the answers of several sweeps and the scores of weights beside public enhancers, as pictures.

    python -m tune.results_page --sweeps outputs/sweeps/sharing … --scores scores.json --out outputs/results

Writes `results.html`, complete in itself, and for a document `results.md` with a picture of each answer.
"""

from __future__ import annotations

import argparse
import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.cli import as_location, verb
from pipelines.evaluation.clip_scores import NOISY
from pipelines.evaluation.metric_labels import label
from pipelines.evaluation.published_tables import PEERS, PublishedTable, read_published
from pipelines.reports.page import ReportFigure, fill_template
from pipelines.reports.score_table import format_score
from pipelines.reports.workflow_scores import readable
from rwsa.command_line import path_argument
from rwsa.errors import InputError
from rwsa.files import StoragePath, atomic_write, is_file, read_json
from rwsa.lease import locked
from tune.report import DATA, StoredSweep, parse_sweep
from tune.results_figures import beside_peers, configurations

PAGE, DOCUMENT = "results.html", "results.md"
_METRIC = "pesq"


@locked("out")
def results_page(sweeps: Sequence[StoragePath], scores: StoragePath | None, out: Path) -> Path:
    """Write the page and the document; returns the page's path.

    Args:
        sweeps: folders of sweeps, in the order of their answers.
        scores: what `pipelines.evaluate --json` wrote for weights, on the published pairs among others.
        out: folder.

    Raises:
        InputError: a folder is not a sweep's, or `scores` not an evaluation's on the published pairs.
    """
    panels = [_sweep_panel(read_sweep_folder(folder)) for folder in sweeps]
    if scores is not None:
        panels.append(_scores_panel(scores, read_published(PEERS)))
    for number, panel in enumerate(panels, 1):
        with atomic_write(out / f"answer-{number}.svg") as temporary:
            temporary.write_bytes(panel["figure"].svg)
    for name, text in (
        (PAGE, fill_template("results.html", title="Results", answers=panels)),
        (DOCUMENT, "\n".join(_document(panels))),
    ):
        with atomic_write(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return out / PAGE


def read_sweep_folder(folder: StoragePath) -> StoredSweep:
    """The sweep whose results are in a folder.

    Raises:
        InputError: there are none.
    """
    path, remedy = folder / DATA, "give the folder of a sweep that has run, ROOT/sweeps/NAME"
    if not is_file(path):
        raise InputError(f"{folder}: has no {DATA}; {remedy}")
    return parse_sweep(read_json(path), where=str(path), remedy=remedy)


def _sweep_panel(one: StoredSweep) -> dict[str, Any]:
    metric = label(one.sweep.metric)
    names = ", ".join(configuration.label for configuration in one.report.configurations)
    domains = "in domain (hollow) and on the other corpora (filled)"
    if len(one.report.corpora) < 2:
        domains = "on the only corpus"
    return {
        "title": one.sweep.question,
        "figure": ReportFigure(
            svg=configurations(one.sweep, one.report),
            alt=f"{metric} of {names or 'no configuration'}, {domains}",
            caption=f"{metric}, mean over seeds, {domains}, with 95% intervals.",
        ),
        "answer": one.report.verdict,
        "rule": one.report.preregistered_rule,
    }


def _scores_panel(path: StoragePath, peers: PublishedTable) -> dict[str, Any]:
    """Weights and peers on both sets of published pairs."""
    values = read_json(path)
    first, second = peers.corpora
    if not readable(values) or not {first, second} <= values["corpora"].keys():
        raise InputError(f"{path}: is no evaluation on {first} and {second}; write one with --json")
    corpora = [values["corpora"][name] for name in (first, second)]
    ours = {
        name: (corpora[0][name][_METRIC], corpora[1][name][_METRIC])
        for name in corpora[0]
        if name != "clips" and None not in (corpora[0][name][_METRIC], corpora[1][name][_METRIC])
    }
    theirs = {
        row.model: (cells[0][_METRIC].mean, cells[1][_METRIC].mean)
        for row in peers.rows
        if all(cells := [peers.cells(row, name) for name in (first, second)])
    }
    noisy = ours.pop(NOISY)
    names = [peers.corpora[first], peers.corpora[second]]
    told = "; ".join(
        f"{name} {format_score(_METRIC, one[0])} and {format_score(_METRIC, one[1])}"
        for name, one in ours.items()
    )
    return {
        "title": "How good are the weights, beside public enhancers?",
        "figure": ReportFigure(
            svg=beside_peers(noisy, ours, theirs, names=names, metric=_METRIC),
            alt=f"{label(_METRIC)} on {names[0]} and {names[1]} of {', '.join([*ours, *theirs])}",
            caption=f"{label(_METRIC)} on the published pairs; who trained on {names[0]} is in domain there.",
        ),
        "answer": f"{label(_METRIC)} on {names[0]} and {names[1]}: {told}; noisy"
        f" {format_score(_METRIC, noisy[0])} and {format_score(_METRIC, noisy[1])}.",
        "rule": "The pairs chose nothing: they were scored once, at the end.",
    }


def _document(panels: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The page as Markdown, with its pictures beside it."""
    yield "# Results\n"
    for number, panel in enumerate(panels, 1):
        yield f"## {panel['title']}\n"
        yield f"![{html.escape(panel['figure'].alt)}](answer-{number}.svg)\n"
        yield f"{panel['answer']} {panel['figure'].caption}\n"
        yield f"{panel['rule']}\n"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sweeps",
        type=as_location,
        nargs="+",
        action="extend",
        default=[],
        metavar="FOLDER",
        help="folders of sweeps, ROOT/sweeps/NAME",
    )
    parser.add_argument(
        "--scores",
        type=as_location,
        metavar="FILE",
        help="what pipelines.evaluate --json wrote for weights, on the published pairs too",
    )
    parser.add_argument(
        "--out",
        type=path_argument,
        default=Path("results"),
        metavar="FOLDER",
        help="where to write (default: results)",
    )


@verb("tune.results_page", __doc__, _arguments)
def main(options: argparse.Namespace) -> int:
    """Command line; returns the exit status."""
    if not options.sweeps and options.scores is None:
        raise InputError("--sweeps, --scores: give at least one of them")
    print(results_page(options.sweeps, options.scores, options.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
