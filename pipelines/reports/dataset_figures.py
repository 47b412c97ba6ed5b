"""Pictures of a folder of shards, as SVG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.inspection.dataset_facts import SplitFacts
from pipelines.media.figures import COLOURS, themed_svg
from pipelines.media.spectrograms import draw_spectrograms

_BINS = 30


def histograms(splits: Sequence[SplitFacts], levels_dbfs: Mapping[str, np.ndarray]) -> bytes:
    """Distributions over the examples of each split: SNR, level, duration, peak gain; and over speakers.

    Args:
        splits: of the folder.
        levels_dbfs: RMS of noisy examples, by split.
    """
    panels = {
        "SNR (dB)": {one.split: np.array(one.snr_db) for one in splits},
        "RMS of the noisy example (dBFS)": dict(levels_dbfs),
        "peak gain (dB)": {one.split: np.array(one.peak_gain_db) for one in splits},
        "duration (s)": {one.split: np.array(one.seconds) for one in splits},
        "minutes a speaker": {one.split: _minutes(one) for one in splits},
    }

    def draw(figure: Figure) -> None:
        grid = figure.subplots(2, 3)
        figure.subplots_adjust(left=0.055, right=0.985, bottom=0.08, top=0.97, wspace=0.16, hspace=0.28)
        for axes, (label, values) in zip(grid.flat, panels.items(), strict=False):
            _draw_histogram(axes, values)
            of = "speakers" if label.endswith("speaker") else "examples"
            axes.set(xlabel=label, ylabel=f"{of} of the split (%)")
        handles, names = grid[0, 0].get_legend_handles_labels()
        grid[1, 2].set_axis_off()
        grid[1, 2].legend(handles, names, loc="center", frameon=False)

    return themed_svg(draw, height_inches=6.2)


def spectrogram_pair(noisy: np.ndarray, clean: np.ndarray, sample_rate_hz: int) -> bytes:
    """Noisy and clean side by side, `[samples]` each."""

    def draw(figure: Figure) -> None:
        draw_spectrograms(figure, {"noisy": noisy, "clean": clean}, sample_rate_hz)

    return themed_svg(draw, height_inches=2.9)


def _minutes(split: SplitFacts) -> np.ndarray:
    named = {speaker: s for speaker, s in split.speaker_seconds.items() if speaker is not None}
    return np.array(list(named.values())) / 60


def _draw_histogram(axes: Axes, values: Mapping[str, np.ndarray]) -> None:
    """A line for each split, over bins that they share, in % of the split."""
    known = {name: one[np.isfinite(one)] for name, one in values.items()}
    every = np.concatenate(list(known.values()))
    if not len(every):
        axes.text(0.5, 0.5, "not known", ha="center", va="center", transform=axes.transAxes)
        return
    low, high = float(every.min()), float(every.max())
    # A constant has no width of its own.
    room = 0.5 if high - low < 1e-6 else 0.0
    edges = np.linspace(low - room, high + room, _BINS + 1)
    for number, (name, one) in enumerate(known.items()):
        shares = np.histogram(one, edges)[0] / max(len(one), 1) * 100
        colour = COLOURS[number % len(COLOURS)]
        axes.stairs(shares, edges, color=colour, fill=True, alpha=0.12)
        axes.stairs(shares, edges, color=colour, label=name, linewidth=1.4)
    axes.grid(alpha=0.3)
    axes.set_ylim(bottom=0)
