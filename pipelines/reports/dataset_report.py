"""The card page of a folder of shards, as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from pipelines.inspection.dataset_facts import DatasetFacts, SplitFacts, environments
from pipelines.media.audio import common_gain, flac
from pipelines.media.spectrograms import PANELS_GAP, PANELS_LEFT, PANELS_RIGHT
from pipelines.reports.dataset_figures import histograms, spectrogram_pair
from pipelines.reports.page import data_uri, details, page, picture, table
from rwsa.shards import Example

# Longer examples are heard and seen in part, or a page of 30 s examples would be tens of megabytes.
HEARD_SECONDS = 10
_CLASSES_SHOWN = 25
_STYLE = f"""
.players {{ display: grid; grid-template-columns: repeat(2, 1fr); column-gap: {PANELS_GAP:.2%};
            margin: 0 {1 - PANELS_RIGHT:.2%} 0 {PANELS_LEFT:.2%}; }}
.players label {{ font-size: 13px; }}
.bars td:last-child {{ width: 55%; min-width: 120px; text-align: left; }}
.bars {{ width: 100%; }}
.bars tbody * {{ padding-top: 0; padding-bottom: 0; }}
.bar {{ display: inline-block; height: 0.8em; background: #0072B2; }}
"""


@dataclass(frozen=True, kw_only=True)
class HeardExample:
    """An example to listen to."""

    split: str
    example: Example


def render_page(
    facts: DatasetFacts,
    levels_dbfs: Mapping[str, np.ndarray],
    heard: Sequence[HeardExample],
    *,
    recipe: str | None,
) -> str:
    """The whole page.

    Args:
        facts: of the folder.
        levels_dbfs: RMS of noisy examples by split: of all, or of a sample.
        heard: examples to listen to.
        recipe: as text; None where it is not known.
    """
    title = " of ".join([f"Dataset {facts.folder}", *filter(None, [", ".join(facts.corpora)])])
    known = {
        "corpus": ", ".join(facts.corpora) or "not named",
        "index.json, SHA-256": facts.index_sha256,
        "recipe hash": ", ".join(facts.recipe_hashes) or "none",
        "made with": ", ".join(f"{name} {' and '.join(them)}" for name, them in facts.made_with.items()),
    }
    return page(
        title,
        f"{details(known)}"
        f"<h2>Splits</h2>\n{_split_table(facts)}{_failures(facts)}"
        f"<h2>Distributions</h2>\n{_distributions(facts, levels_dbfs)}"
        f"<h2>Kinds of noise</h2>\n{''.join(map(_classes, facts.splits))}"
        f"<h2>Examples to listen to</h2>\n{_listening(heard)}"
        f"<h2>Licences of what went in</h2>\n{_licences(facts)}"
        f"<h2>Recipe</h2>\n{_recipe(recipe)}",
        style=_STYLE,
    )


def _split_table(facts: DatasetFacts) -> str:
    heads = ["split", "hours", "examples", "failed", "shards", "MB", "Hz", "speakers"]
    heads += ["speech recordings", "noise recordings", "rooms", "kinds of noise"]
    return table(heads, ([one.split, *_split_cells(one)] for one in facts.splits))


def _split_cells(one: SplitFacts) -> Iterator[str]:
    yield f"{one.hours:.3f}"
    yield from (str(count) for count in (one.examples, one.failed, one.shards))
    yield f"{one.bytes / 1e6:.1f}"
    yield str(one.sample_rate_hz)
    yield str(one.speakers) if one.speakers else "not named"
    yield from (str(one.recordings_of(role)) for role in ("speech", "noise", "room"))
    yield str(len(one.environment_seconds))


def _failures(facts: DatasetFacts) -> str:
    shown = [(one, failure) for one in facts.splits for failure in one.failures]
    if not shown:
        return ""
    lines = "".join(f"<li>{escape(f'{failure.example_id}: {failure.reason}')}</li>" for _, failure in shown)
    failed = sum(one.failed for one in facts.splits)
    planned = failed + facts.examples
    return f"<p>{failed} of {planned} could not be made; the first of each split:</p><ul>{lines}</ul>\n"


def _distributions(facts: DatasetFacts, levels_dbfs: Mapping[str, np.ndarray]) -> str:
    measured = ", ".join(
        f"{len(levels_dbfs[one.split])} of {one.examples} ({one.split})" for one in facts.splits
    )
    heads = ["split", "SNR (dB)", "noisy RMS (dBFS)", "duration (s)", "peak gain (dB)", "turned down"]
    rows = ([one.split, *_spreads(one, levels_dbfs[one.split])] for one in facts.splits)
    return (
        picture(
            histograms(facts.splits, levels_dbfs),
            "histograms of SNR, level, peak gain, duration and minutes a speaker; the table below has"
            " their middles and ranges",
            caption=f"Level is measured on {measured} examples, the rest is told by all of them. SNR as the"
            " recipe measures it. Peak gain is what kept an example from clipping; 0 where nothing had to.",
        )
        + "<p>Median, and the range that holds the middle 90%:</p>\n"
        + table([*heads, "minutes a speaker"], rows)
        + _degraded(facts)
    )


def _spreads(one: SplitFacts, levels_dbfs: np.ndarray) -> Iterator[str]:
    for values in (one.snr_db, levels_dbfs, one.seconds, one.peak_gain_db):
        yield _spread(np.asarray(values))
    gains_db = np.array(one.peak_gain_db)
    yield f"{(gains_db < 0).mean():.1%}" if len(gains_db) else "–"
    seconds = [value for speaker, value in one.speaker_seconds.items() if speaker is not None]
    yield _spread(np.array(seconds) / 60)


def _spread(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return "–"
    low, middle, high = np.percentile(known, [5, 50, 95]) + 0.0
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def _degraded(facts: DatasetFacts) -> str:
    rows = [
        [name, *(f"{one.degraded[name] / max(one.examples, 1):.1%}" for one in facts.splits)]
        for name in sorted(set().union(*(one.degraded for one in facts.splits)))
    ]
    if not rows:
        return '<p class="quiet">No degradations but noise.</p>\n'
    heads = ["degradation, by share of examples", *(one.split for one in facts.splits)]
    return table(heads, rows)


def _classes(split: SplitFacts) -> str:
    """Hours of each class of noise, as bars."""
    shown = sorted(split.environment_seconds.items(), key=lambda item: (-item[1], item[0]))
    rest = shown[_CLASSES_SHOWN:]
    most = max((seconds for _, seconds in shown), default=1.0) or 1.0
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{seconds / 60:.1f}</td>'
        f'<td><span class="bar" style="width:{100 * seconds / most:.1f}%"></span></td></tr>\n'
        for name, seconds in shown[:_CLASSES_SHOWN]
    )
    more = f", {_CLASSES_SHOWN} of them here; the rest has {sum(s for _, s in rest) / 60:.1f} minutes"
    more = more if rest else ""
    return (
        f"<h3>{escape(split.split)}: {len(shown)} kinds{more}</h3>\n"
        '<div class="scroll"><table class="bars"><thead><tr><th scope="col">kind</th>'
        '<th scope="col">minutes</th><th scope="col"></th>'
        f"</tr></thead>\n<tbody>{rows}</tbody></table></div>\n"
    )


def _listening(heard: Sequence[HeardExample]) -> str:
    if not heard:
        return "<p>There are no examples.</p>\n"
    return (
        f'<p class="quiet">{len(heard)} examples of split {escape(heard[0].split)}, from the lowest SNR to'
        f" the highest, evenly between; at most their first {HEARD_SECONDS} s.</p>\n"
        f"{''.join(_heard(one.example) for one in heard)}"
    )


def _heard(example: Example) -> str:
    rate_hz = example.sample_rate_hz
    wavs = {
        "noisy": example.noisy[: HEARD_SECONDS * rate_hz],
        "clean": example.clean[: HEARD_SECONDS * rate_hz],
    }
    gain = common_gain(wavs.values())
    players = "".join(
        f'<label>{name}<audio controls preload="metadata" '
        f'src="{data_uri("audio/flac", flac(wav, rate_hz, gain=gain))}"></audio></label>'
        for name, wav in wavs.items()
    )
    spectrograms = spectrogram_pair(**wavs, sample_rate_hz=rate_hz)
    return (
        f'<h3>{escape(_snr(example.meta))} <span class="quiet">{escape(_described(example))}</span></h3>\n'
        f'<div class="players">{players}</div>\n'
        f"{picture(spectrograms, f'spectrograms of {example.example_id}')}"
    )


def _snr(meta: Mapping[str, Any]) -> str:
    snr_db = meta.get("snr_db")
    return f"SNR {round(snr_db, 1) + 0.0:.1f} dB" if isinstance(snr_db, int | float) else "SNR not known"


def _described(example: Example) -> str:
    meta, parts = example.meta, [example.example_id]
    parts += [f"{key} {meta[key]}" for key in ("speech", "noise", "speaker", "target") if meta.get(key)]
    parts.append(f"kind of noise {', '.join(environments(meta))}")
    if meta.get("peak_gain_db"):
        parts.append(f"turned down by {-meta['peak_gain_db']:.1f} dB")
    parts += [str(one.get("name")) for one in meta.get("degradations", ())]
    return " · ".join(parts)


def _licences(facts: DatasetFacts) -> str:
    keys = sorted(set().union(*(one.source_examples for one in facts.splits)))
    heads = ["licence", "of"]
    for one in facts.splits:
        heads += [f"{one.split} examples", f"{one.split} recordings"]
    rows = []
    for role, licence in keys:
        row = [licence, role]
        for one in facts.splits:
            row.append(str(one.source_examples[role, licence]))
            row.append(str(len(one.recordings.get((role, licence), ()))))
        rows.append(row)
    return table(heads, rows)


def _recipe(recipe: str | None) -> str:
    if recipe is None:
        return '<p class="quiet">Its values are not stored with these shards; the hash above tells it.</p>\n'
    return f"<pre>{escape(recipe)}</pre>\n"
