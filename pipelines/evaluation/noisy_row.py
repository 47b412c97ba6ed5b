"""Whether a corpus is the published one: its noisy test files must reproduce the published noisy row."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.evaluation.metric_labels import label
from rwsa.corpora.cards import Scores
from rwsa.metrics import TABLE1_METRICS

# How near to the published noisy row a genuine copy comes; the papers print three decimals.
TOLERANCES = {"pesq": 0.005, "ssnr": 0.01, "si_sdr": 0.01}
VERIFIED = "verified"


def differences(published: Scores | None, means: Mapping[str, float | None]) -> dict[str, float]:
    """Means minus the published ones, by metric; empty where either is lacking."""
    if published is None:
        return {}
    return {
        name: mean - float(getattr(published, name))
        for name in TABLE1_METRICS
        if (mean := means.get(name)) is not None
    }


def verdict(published: Scores, means: Mapping[str, float | None], *, scored: int, of_clips: int) -> str:
    """`VERIFIED`, or why it is not.

    The means must agree within `TOLERANCES`, and only over all clips: a part has other means.

    Args:
        means: of the noisy test files.
        scored: clips that they rest on.
        of_clips: how many the whole test set has.
    """
    if scored != of_clips or not scored:
        return f"not compared with the published row: {scored} of {of_clips} clips scored"
    gaps = differences(published, means)
    off = [
        f"{label(name)} {getattr(published, name) + gaps[name]:.3f} where"
        f" {getattr(published, name):.3f} is published ({gaps[name]:+.3f})"
        for name, tolerance in TOLERANCES.items()
        if abs(gaps[name]) > tolerance
    ]
    return f"not the published corpus: {', '.join(off)}" if off else VERIFIED


def tolerances() -> str:
    """For people: `PESQ ±0.005, …`."""
    return ", ".join(f"{label(name)} ±{tolerance:g}" for name, tolerance in TOLERANCES.items())
