"""Synthetic evaluations, for tests of statistics and reports."""

from __future__ import annotations

import numpy as np

from pipelines.evaluation.clip_scores import (
    NOISY,
    NOISY_PHASE,
    ClipAudio,
    ClipScores,
    SignalScores,
    with_table1,
)
from pipelines.evaluation.results import CorpusScores
from pipelines.evaluation.systems import Model
from rwsa.metrics import TABLE1_METRICS
from rwsa.models import ModelConfig

RATE_HZ = 16000


def model(name: str, configuration: str | None = None) -> Model:
    return Model(
        name=name,
        configuration=configuration or name,
        weights=f"{name}.safetensors",
        sha256="0" * 64,
        config=ModelConfig(channels=8, blocks=1),
        parameters=93_512,
        giga_flops=0.34,
    )


def synthetic_scores(
    corpus: str,
    seed: int,
    systems: tuple[str, ...] = ("enhanced",),
    seconds: float = 1.5,
    further: tuple[str, ...] = (),
    count: int = 40,
) -> CorpusScores:
    """Scores of forty (or `count`) clips of eight speakers, from −5 to 10 dB, with larger gains at lower SNR.

    Each further system gains 1 dB less. In each further metric, noisy has 2, and systems add a tenth of the
    gain.
    """
    rng = np.random.default_rng(seed)
    clips = []
    for number, snr_db in enumerate(rng.uniform(-5, 10, size=count).tolist()):
        noisy = {"pesq": 1.2 + 0.04 * snr_db, "ssnr": snr_db - 3, "estoi": 0.5, "si_sdr": snr_db}
        noisy |= dict.fromkeys(further, 2.0)
        signals = {NOISY: SignalScores(values=noisy, snr_db=snr_db)}
        for place, system in enumerate(systems):
            gain_db = 7 - 0.5 * snr_db - seed - place + rng.normal()
            better = {
                "pesq": 0.1 * gain_db,
                "ssnr": 0.8 * gain_db,
                "estoi": 0.02 * gain_db,
                "si_sdr": gain_db,
                **dict.fromkeys(further, 0.1 * gain_db),
            }
            values = {name: noisy[name] + better[name] for name in (*TABLE1_METRICS, *further)}
            signals[system] = SignalScores(values={**values, NOISY_PHASE: values["si_sdr"] - 1})
        clips.append(
            ClipScores(
                corpus=corpus,
                clip_id=f"{corpus}/clip-{number:02d}",
                seconds=seconds,
                speaker=f"speaker-{number % 8}",
                environment=("café", "bus", "rain")[number % 3],
                signals=signals,
            )
        )
    return CorpusScores(
        name=corpus,
        clips=tuple(clips),
        of_clips=count,
        data_sha256=f"{seed:064d}",
        metrics=with_table1(further),
    )


def audio(seed: int, systems: tuple[str, ...] = ("enhanced",), seconds: float = 1.5) -> ClipAudio:
    """A harmonic glide with noise, and with a tenth of the noise for each system."""
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    phase = 2 * np.pi * (150 + 10 * seed) * (time + 0.1 * time**2)
    clean = sum(np.sin(k * phase) / k for k in range(1, 20)) * np.sin(np.pi * time / seconds) * 0.1
    noise = np.random.default_rng(seed).normal(scale=0.05, size=len(time))
    signals = {"noisy": clean + noise, **dict.fromkeys(systems, clean + 0.1 * noise), "clean": clean}
    return ClipAudio(signals={name: np.asarray(wav, np.float32) for name, wav in signals.items()})
