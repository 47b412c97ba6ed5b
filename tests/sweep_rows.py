"""Artificial results of a sweep with known scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from rwsa.config import build
from rwsa.metrics import TABLE1_METRICS
from tune.sweep_config import SweepConfig
from tune.trial_results import EvaluationSettings, TrialResult

CORPORA = ("near", "away", "far")
CLIPS = 8


def sweep_of(**changes: Any) -> SweepConfig:
    """A sweep over sharing, with three seeds and three corpora."""
    values = {
        "name": "made-up",
        "question": "Does sharing help?",
        "base": ["base", "nano"],
        "axes": {"model.sharing": {"values": ["resolution", "none", "off"]}},
        "seeds": [0, 1, 2],
        "corpora": [f"{name}.yaml" for name in CORPORA],
        "metric": "si_sdr",
    }
    return build(SweepConfig, {**values, **changes}, where="made up")


def row_of(point: dict[str, Any], seed: int, score: float, **changes: Any) -> TrialResult:
    """A finished trial with `score` in every metric in domain, and one and two less on the other corpora."""
    rng = np.random.default_rng(seed)
    means, clips = {}, {}
    for at, corpus in enumerate(CORPORA):
        deviations = rng.normal(size=CLIPS)
        scores = (score - at + deviations - deviations.mean()).tolist()
        means[corpus] = {
            "noisy": dict.fromkeys(TABLE1_METRICS, 0.5 - at),
            "enhanced": dict.fromkeys(TABLE1_METRICS, float(np.mean(scores))),
        }
        names = [f"{corpus}/{number}" for number in range(CLIPS)]
        clips[corpus] = {"clip": names, **dict.fromkeys(TABLE1_METRICS, scores)}
    values = {
        "trial": f"{'-'.join(str(value) for value in point.values())}-{seed}",
        "point": point,
        "seed": seed,
        "status": "finished",
        "step": 10,
        "score": score,
        "reports": ((5, score - 1), (10, score)),
        "seconds": 60.0,
        "parameters": 1000 + 100 * len(str(next(iter(point.values())))),
        "multiply_accumulates": 5 * 10**8,
        "evaluated": EvaluationSettings(corpora=tuple(f"{name}.yaml" for name in CORPORA), examples=None),
        "means": means,
        "clips": clips,
    }
    return TrialResult(**{**values, **changes})


def rows_of(scores: dict[str, list[float]]) -> list[TrialResult]:
    """Results from `model.sharing` → scores, one per seed."""
    return [
        row_of({"model.sharing": value}, seed, score)
        for value, of_seeds in scores.items()
        for seed, score in enumerate(of_seeds)
    ]
