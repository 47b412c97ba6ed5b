"""The list of metrics: names, bounds, functions, dependencies, packages and version.

To add a metric, write its function in a module of this folder, and list it in `_LISTED` with the steps it
needs and in `_PACKAGES` with the packages it imports.
"""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Literal, get_args

from rwsa.errors import InputError
from rwsa.fingerprint import code_fingerprint, installed_version
from rwsa.metrics.composite import bands, cbak, covl, csig, envelopes, llr, wss
from rwsa.metrics.dnsmos import dnsmos, dnsmos_p808
from rwsa.metrics.lsd import lsd
from rwsa.metrics.packages import import_package
from rwsa.metrics.pesq import pesq, pesq_nb
from rwsa.metrics.phones import phone_error, phones
from rwsa.metrics.snr import si_sdr, ssnr
from rwsa.metrics.stoi import estoi, segments, stoi
from rwsa.metrics.values import Metric, MetricStep

_LISTED = (
    Metric(name="pesq", unit="MOS-LQO", lowest=0.999, highest=4.644, measure=pesq),
    Metric(name="ssnr", unit="dB", lowest=-10, highest=35, measure=ssnr),
    Metric(name="estoi", unit="1", lowest=-1, highest=1, measure=estoi, needs=("clean segments", "enhanced")),
    Metric(name="si_sdr", unit="dB", lowest=-math.inf, highest=math.inf, measure=si_sdr),
    Metric(name="csig", unit="MOS", lowest=1, highest=5, measure=csig, needs=("pesq", "llr", "wss")),
    Metric(name="cbak", unit="MOS", lowest=1, highest=5, measure=cbak, needs=("pesq", "wss", "ssnr")),
    Metric(name="covl", unit="MOS", lowest=1, highest=5, measure=covl, needs=("pesq", "llr", "wss")),
    Metric(name="stoi", unit="1", lowest=-1, highest=1, measure=stoi),
    *(
        Metric(
            name=f"dnsmos_{scale}",
            unit="MOS",
            # The scale is 1 to 5, but the network's output is mapped by a quadratic and not clipped.
            lowest=-math.inf,
            highest=math.inf,
            measure=attrgetter(scale),
            needs=("dnsmos",),
        )
        for scale in ("sig", "bak", "ovrl")
    ),
    # The network's output, which is not clipped.
    Metric(
        name="dnsmos_p808",
        unit="MOS",
        lowest=-math.inf,
        highest=math.inf,
        measure=dnsmos_p808,
        needs=("enhanced",),
    ),
    Metric(name="pesq_nb", unit="MOS-LQO", lowest=1.016, highest=4.549, measure=pesq_nb),
    Metric(name="lsd", unit="dB", lowest=0, highest=math.inf, measure=lsd, lower_is_better=True),
    Metric(
        name="phone_error",
        unit="1",
        lowest=0,
        highest=math.inf,
        measure=phone_error,
        needs=("clean phones", "enhanced"),
        lower_is_better=True,
    ),
)
# Distances (lower is better) that only composites use, and intermediate values that several metrics share.
_STEPS = (
    Metric(
        name="llr", unit="1", lowest=0, highest=math.inf, measure=llr, needs=("clean envelopes", "enhanced")
    ),
    Metric(
        name="wss", unit="dB²", lowest=0, highest=math.inf, measure=wss, needs=("clean bands", "enhanced")
    ),
    MetricStep(name="clean envelopes", measure=envelopes, needs=("clean",)),
    MetricStep(name="clean bands", measure=bands, needs=("clean",)),
    MetricStep(name="clean segments", measure=segments, needs=("clean",)),
    MetricStep(name="clean phones", measure=phones, needs=("clean",)),
    MetricStep(name="dnsmos", measure=dnsmos, needs=("enhanced",)),
)
# The metrics of the paper's Table 1.
Table1Metric = Literal["pesq", "ssnr", "estoi", "si_sdr"]
TABLE1_METRICS: tuple[Table1Metric, ...] = get_args(Table1Metric)
METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _LISTED})
STEPS: Mapping[str, MetricStep] = MappingProxyType({step.name: step for step in (*_LISTED, *_STEPS)})
_PACKAGES = {
    "pesq": ("pesq",),
    "stoi": ("pystoi", "scipy"),
    "clean segments": ("pystoi", "scipy"),
    "dnsmos": ("speechmos", "onnxruntime"),
    "dnsmos_p808": ("speechmos", "onnxruntime"),
    "pesq_nb": ("pesq",),
    "clean phones": ("pocketsphinx",),
}
_ROOTS = frozenset({"clean", "enhanced"})


def check_metrics(metrics: Sequence[str]) -> None:
    """Check that these metrics exist and that their packages are installed.

    Raises:
        InputError: a metric is unknown (the nearest valid name is suggested), or a package is missing.
    """
    for name in metrics:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(METRICS)}"
            raise InputError(f"unknown metric '{name}'; {hint}")
        for package in _packages(name):
            import_package(package)


def metrics_version(metrics: Sequence[str] = tuple(METRICS)) -> str:
    """The version of the metrics' code and packages: equal strings mean equal numbers on one kind of CPU.

    Args:
        metrics: names; only their packages are included.

    Returns:
        A line such as `3f2a91c0b7de numpy-2.4.6 pesq-0.0.4`: twelve digits of
        `rwsa.fingerprint.code_fingerprint`, then the installed packages by name.

    Raises:
        InputError: an unknown metric.
    """
    return " ".join([code_fingerprint(("rwsa.metrics",))[:12], *package_versions(metrics)])


def package_versions(metrics: Sequence[str] = tuple(METRICS)) -> list[str]:
    """The installed packages that these metrics use, sorted: `numpy-2.4.6`, `pesq-0.0.4`, ….

    Raises:
        InputError: an unknown metric.
    """
    for name in metrics:
        if name not in METRICS:
            check_metrics((name,))
    needed = {"numpy"}.union(*(_packages(name) for name in metrics))
    return [f"{name}-{found}" for name in sorted(needed) if (found := installed_version(name)) is not None]


def _packages(name: str) -> tuple[str, ...]:
    """Packages that `name` and the steps it needs import."""
    return tuple(package for step in _steps(name) for package in _PACKAGES.get(step, ()))


@functools.cache
def roots(name: str) -> tuple[str, ...]:
    """Which of "clean" and "enhanced" a step depends on, sorted."""
    return tuple(sorted(_ROOTS.intersection(_steps(name))))


@functools.cache
def _steps(name: str) -> tuple[str, ...]:
    """`name` and all steps that it needs, directly or indirectly."""
    needs = STEPS[name].needs if name in STEPS else ()
    return tuple(dict.fromkeys([name, *(step for need in needs for step in _steps(need))]))
