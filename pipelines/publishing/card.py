"""The model card in Hugging Face's form, and its figure, from facts alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from pipelines.evaluation.metric_labels import heading, label
from pipelines.evaluation.published_tables import PublishedTable
from pipelines.media.figures import series_style, themed_svg
from pipelines.publishing.data_facts import DataFacts
from pipelines.publishing.training_facts import TrainingFacts
from pipelines.reports.score_table import format_score
from rwsa.metrics import METRICS, TABLE1_METRICS

_FEW_CLIPS = 10
_WHAT = {"speech": "speech", "noise": "noise", "room": "rooms", "pairs": "pairs"}


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """Everything that a card says.

    Attributes:
        name: of the weights.
        default: whether `rwsa enhance` uses them without a name.
        summary, parameters: of the network.
        sha256: of the published file.
        scores: see `pipelines.publishing.scores.scores_of`.
        real_time_factor: processor seconds per second of audio.
        recipe: path or name of the mixing recipe; None where shards were trained on.
    """

    name: str
    default: bool
    summary: str
    parameters: int
    sha256: str
    training: TrainingFacts
    data: DataFacts
    scores: Mapping[str, Any]
    real_time_factor: float
    recipe: str | None


def card_text(facts: CardFacts, peers: PublishedTable) -> str:
    """The card as Markdown with a YAML header."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    training, data = facts.training, facts.data
    kinds = {source["kind"] for source in data.sources}
    return environment.get_template("model_card.md").render(
        header=yaml.safe_dump(_header(facts), sort_keys=False, allow_unicode=True, width=110),
        name=facts.name,
        parameters=f"{facts.parameters:,}",
        summary=facts.summary,
        enhance_options="" if facts.default else f" --weights {facts.name}",
        load_argument="" if facts.default else f'"{facts.name}"',
        rooms="" if "room" in kinds else "It was trained without rooms and leaves reverberation as it is.",
        real_time_factor=f"{facts.real_time_factor:.3f}",
        cpu=training.cpu,
        data=f"{data.description} (`{data.corpus}`)"
        + (f", mixed by the recipe `{facts.recipe}`." if facts.recipe else ", as shards."),
        sources_table=_markdown(
            ["data", "licence", "hours", "files", "variety"],
            [[_WHAT[one["kind"]], one["licence"], f"{one['hours']:.2f}", f"{one['files']:,}", _variety(one)]
             for one in data.sources],
        ),
        licence=data.licence,
        licence_reason=_licence_reason(data),
        command=training.command,
        training=_listed(_training(facts)),
        scores_table=_scores_table(facts.scores),
        units=_listed(f"{corpus}: {one['units']}" for corpus, one in facts.scores.items()),
        peers_title=peers.title,
        peers_table=_peers_table(facts, peers),
        limits=_listed(_limits(facts)),
    )  # fmt: skip


def curve_svg(training: TrainingFacts) -> bytes:
    """Validation score by step, and the step that was chosen."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        figure.subplots_adjust(left=0.12, right=0.97, bottom=0.2, top=0.95)
        style = {**series_style(0), "marker": ""}
        axes.plot(*zip(*training.curve, strict=True), **style)
        axes.plot([training.best_step], [training.best_score], **{**series_style(1), "linestyle": "none"})
        axes.set_xlabel("step", fontsize=9)
        axes.set_ylabel(f"{heading(training.metric)}, validation", fontsize=9)
        axes.grid(alpha=0.25)

    return themed_svg(draw, height_inches=2.6, width_inches=6.0)


def _header(facts: CardFacts) -> dict[str, Any]:
    """The YAML that Hugging Face reads."""
    results = [
        {
            "task": {"type": "audio-to-audio", "name": "Speech enhancement"},
            "dataset": {"type": corpus, "name": corpus, "split": "test"},
            "metrics": [
                {"type": metric, "name": heading(metric), "value": values[0]}
                for metric, values in of_corpus["enhanced"].items()
            ],
        }
        for corpus, of_corpus in facts.scores.items()
    ]
    return {
        "license": facts.data.licence,
        "library_name": "rwsa",
        "pipeline_tag": "audio-to-audio",
        "tags": ["speech-enhancement", "noise-suppression", "mamba"],
        "datasets": [facts.data.corpus],
        "metrics": list(_metrics(facts.scores)),
        "model-index": [{"name": facts.name, "results": results}],
    }


def _licence_reason(data: DataFacts) -> str:
    match data.commercial:
        case None:
            return "The licence of a part of the training data is not known to the rule; read it before use."
        case True:
            return "All training data allow commercial use with attribution, and so do the weights."
        case False:
            return (
                "A part of the training data is for non-commercial use only (as ESC-50 and UrbanSound8K are),"
                " and so are the weights."
            )


def _variety(source: Mapping[str, Any]) -> str:
    return next((f"{source[key]} {key}" for key in ("speakers", "classes") if key in source), "")


def _training(facts: CardFacts) -> Iterator[str]:
    one = facts.training
    yield (
        f"{one.steps:,} steps with seed {one.settings['seed']}, {one.audio_hours:,.1f} hours of audio; the"
        f" weights are those of step {one.best_step:,}, the best by validation ({heading(one.metric)}"
        f" {one.best_score:.2f})"
    )
    threads = f"{one.threads} thread{'s' * (one.threads != 1)} of {one.cpu}"
    machine = ", ".join([threads, *one.gpus])
    yield f"{one.core_hours:.2f} core-hours ({machine}); other work may have run beside"
    yield f"commit {', '.join(one.commits) or 'unknown'}"
    yield f"SHA-256 of the run's weights `{one.sha256}`"
    yield f"SHA-256 of `{facts.name}.safetensors` `{facts.sha256}`"


def _metrics(scores: Mapping[str, Any]) -> tuple[str, ...]:
    """The metrics that all corpora have, Table 1's first."""
    there = [set(one["enhanced"]) & set(one["noisy"]) for one in scores.values()]
    common = set.intersection(*there) if there else set()
    return tuple(name for name in dict.fromkeys((*TABLE1_METRICS, *METRICS)) if name in common)


def _scores_table(scores: Mapping[str, Any]) -> str:
    metrics = _metrics(scores)
    rows = [
        [corpus if kind == "noisy" else "", f"{one['clips']}" if kind == "noisy" else "", kind]
        + [_cell(metric, one[kind][metric]) for metric in metrics]
        for corpus, one in scores.items()
        for kind in ("noisy", "enhanced")
    ]
    return _markdown(["corpus", "clips", "", *map(heading, metrics)], rows)


def _cell(metric: str, values: Sequence[float]) -> str:
    mean, *interval = (format_score(metric, value) for value in values)
    return f"{mean} [{', '.join(interval)}]" if interval else mean


def _peers_table(facts: CardFacts, peers: PublishedTable) -> str:
    """These weights below the noisy input, then the peers, on the corpora that both have."""
    corpora = [corpus for corpus in peers.corpora if corpus in facts.scores]
    if not corpora:
        return ""
    measured = " / ".join(map(label, peers.metrics))
    head = ["system", "parameters", "trained on", *(f"{peers.corpora[one]}: {measured}" for one in corpora)]
    ours = {"noisy": ("", ""), "enhanced": (_millions(facts.parameters / 1e6), facts.data.corpus)}
    rows = [
        [f"**{facts.name}**" if kind == "enhanced" else kind, *about]
        + [_joined({m: facts.scores[one][kind][m][0] for m in peers.metrics}, peers) for one in corpora]
        for kind, about in ours.items()
    ]
    for row in peers.rows:
        cells = [{name: cell.mean for name, cell in peers.cells(row, one).items()} for one in corpora]
        about = [_millions(row.parameters_millions), row.trained_on or "unknown"]
        rows.append([row.model, *about, *(_joined(one, peers) for one in cells)])
    return _markdown(head, rows)


def _millions(millions: float | None) -> str:
    return "" if millions is None else f"{1000 * millions:,.0f} k"


def _joined(means: Mapping[str, float], peers: PublishedTable) -> str:
    return " / ".join(format_score(name, means.get(name)) for name in peers.metrics)


def _limits(facts: CardFacts) -> Iterator[str]:
    """What the scores and the training say against the weights."""
    one = facts.training
    speech = sum(source["hours"] for source in facts.data.sources if source["kind"] in ("speech", "pairs"))
    yield f"All of its training speech is {speech:.1f} hours, mixed anew with noise again and again."
    if one.best_step >= 0.95 * one.steps:
        yield "The best step is among the last ones: longer training may well give better weights."
    for corpus, of_corpus in facts.scores.items():
        worse = [
            f"{label(metric)} ({format_score(metric, of_corpus['noisy'][metric][0])} →"
            f" {format_score(metric, values[0])})"
            for metric, values in of_corpus["enhanced"].items()
            if metric in of_corpus["noisy"] and values[0] < of_corpus["noisy"][metric][0]
        ]
        if worse:
            yield f"On {corpus} enhancing lowers {', '.join(worse)}."
    few = [corpus for corpus, one in facts.scores.items() if one["clips"] < _FEW_CLIPS]
    if few:
        yield f"{', '.join(few)}: fewer than {_FEW_CLIPS} clips, so these means are uncertain."


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _listed(lines: Iterator[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
