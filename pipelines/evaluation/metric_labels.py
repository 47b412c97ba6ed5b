"""How metrics are written for people: their names, units, decimals, and the least difference that counts."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.evaluation.clip_scores import NOISY_PHASE
from rwsa.metrics import METRICS, Metric

# So many stand abreast in a table or a picture; the first four are those of the paper's Table 1.
_ABREAST = 4
# Differences that no published table would show, by unit: a clip within them is a tie.
_TIES = {"dB": 0.01, "1": 0.001}
_MOS_TIE = 0.005


def label(name: str) -> str:
    """`SI-SDR`, `DNSMOS OVRL`."""
    return name.upper().replace("_", " " if name.startswith("dnsmos") else "-")


def unit(name: str) -> str:
    """`dB`, `MOS`; nothing for a bare number."""
    found = _metric(name).unit
    return "" if found == "1" else found.partition("-")[0]


def heading(name: str) -> str:
    """The name with its unit, `SI-SDR (dB)`."""
    return f"{label(name)} ({unit(name)})" if unit(name) else label(name)


def decimals(name: str) -> int:
    """How many are shown."""
    return 2 if unit(name) == "dB" else 3


def tie(name: str) -> float:
    """Two scores of a clip that are so near are alike."""
    return _TIES.get(_metric(name).unit, _MOS_TIE)


def abreast(metrics: Sequence[str]) -> list[tuple[str, ...]]:
    """Metrics in the rows that they are shown in, where more would need scrolling sideways."""
    return [tuple(metrics[at : at + _ABREAST]) for at in range(0, len(metrics), _ABREAST)]


def _metric(name: str) -> Metric:
    return METRICS["si_sdr" if name == NOISY_PHASE else name]
