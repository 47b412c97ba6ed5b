"""Labels of metrics: names, units, decimals, and the tolerance of a tie."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.evaluation.clip_scores import NOISY_PHASE
from rwsa.metrics import METRICS, Metric

# Columns of metrics in a table or figure; the first four are Table 1's.
_COLUMNS = 4
# Differences below the resolution of published tables, by unit.
_TIES = {"dB": 0.01, "1": 0.001}
_MOS_TIE = 0.005


def label(name: str) -> str:
    """`SI-SDR`, `DNSMOS OVRL`, `phone error`."""
    if name == "phone_error":
        return "phone error"
    return name.upper().replace("_", " " if name.startswith("dnsmos") else "-")


def unit(name: str) -> str:
    """`dB`, `MOS`; empty for a bare number."""
    found = _metric(name).unit
    return "" if found == "1" else found.partition("-")[0]


def heading(name: str) -> str:
    """The name with its unit, `SI-SDR (dB)`."""
    return f"{label(name)} ({unit(name)})" if unit(name) else label(name)


def decimals(name: str) -> int:
    """Number of decimals to show."""
    return 2 if unit(name) == "dB" else 3


def tie_tolerance(name: str) -> float:
    """The difference up to which two scores of a clip are a tie."""
    return _TIES.get(_metric(name).unit, _MOS_TIE)


def column_groups(metrics: Sequence[str]) -> list[tuple[str, ...]]:
    """Metrics in groups that fit side by side in a table or figure."""
    return [tuple(metrics[at : at + _COLUMNS]) for at in range(0, len(metrics), _COLUMNS)]


def _metric(name: str) -> Metric:
    return METRICS["si_sdr" if name == NOISY_PHASE else name]
