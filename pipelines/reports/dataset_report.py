"""The dataset report: splits, distributions, noise classes, audio samples, licences and recipe of shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.inspection.dataset_facts import DatasetFacts, SplitFacts, environments
from pipelines.media.audio import common_gain, flac
from pipelines.media.colours import COLOURS
from pipelines.media.figures import themed_svg
from pipelines.media.spectrograms import draw_spectrograms
from pipelines.reports.page import ReportFigure, data_uri, fill_template
from pipelines.reports.score_table import MISSING
from rwsa.shards import Example

# Longer examples are cut, or a report with 30 s examples would have tens of megabytes.
SAMPLE_SECONDS = 10
_CLASSES_SHOWN = 25
_BINS = 30


@dataclass(frozen=True, kw_only=True)
class DatasetSample:
    """An example to listen to."""

    split: str
    example: Example


def dataset_html(
    facts: DatasetFacts,
    levels_dbfs: Mapping[str, np.ndarray],
    samples: Sequence[DatasetSample],
    *,
    recipe: str | None,
) -> str:
    """The report as HTML.

    Args:
        facts: of the folder.
        levels_dbfs: split -> RMS of its noisy examples, of all or of a sample.
        samples: examples to listen to.
        recipe: as YAML; None if unknown.
    """
    splits = facts.splits
    measured = ", ".join(f"{len(levels_dbfs[one.split])} of {one.examples} ({one.split})" for one in splits)
    figure = ReportFigure(
        svg=_histograms(splits, levels_dbfs),
        alt="histograms of SNR, level, peak gain, duration and minutes per speaker; the table below gives"
        " medians and ranges",
        caption=f"Levels are measured on {measured} examples, everything else on all of them. SNR is measured"
        " as the recipe defines it. Peak gain is the attenuation that kept an example from clipping; 0 dB"
        " where none was needed.",
    )
    return fill_template(
        "dataset_report.html",
        title=" of ".join([f"Dataset {facts.folder}", *filter(None, [", ".join(facts.corpora)])]),
        about={
            "corpus": ", ".join(facts.corpora) or "not named",
            "index.json, SHA-256": facts.index_sha256,
            "recipe hash": ", ".join(facts.recipe_hashes) or "none",
            "versions": ", ".join(f"{name} {' and '.join(them)}" for name, them in facts.made_with.items()),
        },
        splits=[[one.split, *_split_cells(one)] for one in splits],
        failed=sum(one.failed for one in splits),
        planned=sum(one.failed for one in splits) + facts.examples,
        failures=[f"{failure.example_id}: {failure.reason}" for one in splits for failure in one.failures],
        figure=figure,
        percentiles=[[one.split, *_percentile_cells(one, levels_dbfs[one.split])] for one in splits],
        names=[one.split for one in splits],
        degradations=[
            [name, *(f"{one.degraded[name] / max(one.examples, 1):.1%}" for one in splits)]
            for name in sorted(set().union(*(one.degraded for one in splits)))
        ],
        noise_classes=[_noise_classes(one) for one in splits],
        samples=[_sample(one.example) for one in samples],
        sampled_split=samples[0].split if samples else "",
        sample_seconds=SAMPLE_SECONDS,
        licences=_licences(splits),
        recipe=recipe,
    )


def _split_cells(one: SplitFacts) -> Iterator[str]:
    yield f"{one.hours:.3f}"
    yield from (str(count) for count in (one.examples, one.failed, one.shards))
    yield f"{one.bytes / 1e6:.1f}"
    yield str(one.sample_rate_hz)
    yield str(one.speakers) if one.speakers else "not named"
    yield from (str(one.recordings_of(role)) for role in ("speech", "noise", "room"))
    yield str(len(one.environment_seconds))


def _percentile_cells(one: SplitFacts, levels_dbfs: np.ndarray) -> Iterator[str]:
    for values in (one.snr_db, levels_dbfs, one.seconds, one.peak_gain_db):
        yield _percentiles(np.asarray(values))
    gains_db = np.array(one.peak_gain_db)
    yield f"{(gains_db < 0).mean():.1%}" if len(gains_db) else MISSING
    yield _percentiles(_speaker_minutes(one))


def _percentiles(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return MISSING
    low, median, high = np.percentile(known, [5, 50, 95]) + 0.0
    return f"{median:.1f} ({low:.1f} to {high:.1f})"


def _speaker_minutes(split: SplitFacts) -> np.ndarray:
    seconds = [value for speaker, value in split.speaker_seconds.items() if speaker is not None]
    return np.array(seconds) / 60


def _noise_classes(split: SplitFacts) -> dict[str, Any]:
    """Minutes of each noise class, with the length of its bar in %."""
    classes = sorted(split.environment_seconds.items(), key=lambda item: (-item[1], item[0]))
    longest = max((seconds for _, seconds in classes), default=1.0) or 1.0
    rest = classes[_CLASSES_SHOWN:]
    title = f"{split.split}: {len(classes)} noise classes"
    if rest:
        minutes = sum(seconds for _, seconds in rest) / 60
        title += f", the {_CLASSES_SHOWN} longest shown; the others have {minutes:.1f} minutes"
    rows = [
        (name, f"{seconds / 60:.1f}", f"{100 * seconds / longest:.1f}")
        for name, seconds in classes[:_CLASSES_SHOWN]
    ]
    return {"title": title, "rows": rows}


def _sample(example: Example) -> dict[str, Any]:
    rate_hz, meta = example.sample_rate_hz, example.meta
    signals = {
        "noisy": example.noisy[: SAMPLE_SECONDS * rate_hz],
        "clean": example.clean[: SAMPLE_SECONDS * rate_hz],
    }
    gain = common_gain(signals.values())

    def draw(figure: Figure) -> None:
        draw_spectrograms(figure, signals, rate_hz)

    snr_db = meta.get("snr_db")
    about = [example.example_id]
    about += [f"{key} {meta[key]}" for key in ("speech", "noise", "speaker", "target") if meta.get(key)]
    about.append(f"noise class {', '.join(environments(meta))}")
    if meta.get("peak_gain_db"):
        about.append(f"attenuated by {-meta['peak_gain_db']:.1f} dB")
    about += [str(one.get("name")) for one in meta.get("degradations") or ()]
    return {
        "title": f"SNR {round(snr_db, 1) + 0.0:.1f} dB" if isinstance(snr_db, int | float) else "SNR unknown",
        "about": " · ".join(about),
        "signals": {
            name: data_uri("audio/flac", flac(wav, rate_hz, gain=gain)) for name, wav in signals.items()
        },
        "figure": ReportFigure(
            svg=themed_svg(draw, height_inches=2.9), alt=f"spectrograms of {example.example_id}"
        ),
    }


def _licences(splits: Sequence[SplitFacts]) -> list[list[str]]:
    """Examples and recordings of each split, by licence and role."""
    return [
        [
            licence,
            role,
            *(
                str(count)
                for one in splits
                for count in (
                    one.source_examples[role, licence],
                    len(one.recordings.get((role, licence), ())),
                )
            ),
        ]
        for role, licence in sorted(set().union(*(one.source_examples for one in splits)))
    ]


def _histograms(splits: Sequence[SplitFacts], levels_dbfs: Mapping[str, np.ndarray]) -> bytes:
    """Distributions over the examples of each split, and over its speakers."""
    panels = {
        "SNR (dB)": {one.split: np.array(one.snr_db) for one in splits},
        "RMS of the noisy example (dBFS)": dict(levels_dbfs),
        "peak gain (dB)": {one.split: np.array(one.peak_gain_db) for one in splits},
        "duration (s)": {one.split: np.array(one.seconds) for one in splits},
        "minutes per speaker": {one.split: _speaker_minutes(one) for one in splits},
    }

    def draw(figure: Figure) -> None:
        grid = figure.subplots(2, 3)
        figure.subplots_adjust(left=0.055, right=0.985, bottom=0.08, top=0.97, wspace=0.22, hspace=0.28)
        for axes, (label, values) in zip(grid.flat, panels.items(), strict=False):
            _draw_histogram(axes, values)
            counted = "speakers" if label.endswith("speaker") else "examples"
            axes.set(xlabel=label, ylabel=f"{counted} (% of split)")
        handles, names = grid[0, 0].get_legend_handles_labels()
        grid[1, 2].set_axis_off()
        grid[1, 2].legend(handles, names, loc="center", frameon=False)

    return themed_svg(draw, height_inches=6.2)


def _draw_histogram(axes: Axes, values: Mapping[str, np.ndarray]) -> None:
    """One line per split in % of the split, over common bins."""
    known = {name: one[np.isfinite(one)] for name, one in values.items()}
    pooled = np.concatenate(list(known.values()))
    if not len(pooled):
        axes.text(0.5, 0.5, "unknown", ha="center", va="center", transform=axes.transAxes)
        return
    low, high = float(pooled.min()), float(pooled.max())
    # A constant has no range of its own.
    margin = 0.5 if high - low < 1e-6 else 0.0
    edges = np.linspace(low - margin, high + margin, _BINS + 1)
    for number, (name, one) in enumerate(known.items()):
        shares = np.histogram(one, edges)[0] / max(len(one), 1) * 100
        colour = COLOURS[number % len(COLOURS)]
        axes.stairs(shares, edges, color=colour, fill=True, alpha=0.12)
        axes.stairs(shares, edges, color=colour, label=name, linewidth=1.4)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(alpha=0.3)
    axes.set_ylim(bottom=0)
