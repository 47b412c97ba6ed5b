"""Clips, recipes and plans for tests of mixing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from rwsa.corpora.manifest import Clip, Manifest
from rwsa.mixing import MixPlan, Recipe, load_sources, render_mix
from rwsa.mixing.plans import draw_mix
from rwsa.mixing.recipes import NoiseChoice

RATE_HZ = 16000


def clip(number: int, kind: str = "speech", **values: Any) -> Clip:
    defaults: dict[str, Any] = {
        "clip_id": f"toy/{kind}-{number}",
        "kind": kind,
        "path": f"/nowhere/{kind}-{number}.wav",
        "samples": 3 * RATE_HZ,
        "sample_rate_hz": RATE_HZ,
        "split": "train",
        "speaker": f"s{number}" if kind == "speech" else None,
        "recording": f"r{number}" if kind == "noise" else None,
        "environment": "street" if kind == "noise" else None,
        "channel": None,
        "licence": "CC0",
    }
    return Clip(**{**defaults, **values})


def manifest(speech: int = 5, noise: int = 3, split: str = "train") -> Manifest:
    clips = [clip(n, split=split) for n in range(speech)] + [
        clip(n, "noise", split=split) for n in range(noise)
    ]
    return Manifest(card="toy", clips=tuple(clips))


def recipe(**values: Any) -> Recipe:
    defaults = {
        "name": "toy",
        "seconds": 1.0,
        "min_snr_db": -5.0,
        "max_snr_db": 10.0,
        "examples": {"train": 20},
    }
    return Recipe(**{**defaults, **values})


def written(folder: Path, name: str, wav: np.ndarray, rate: int = RATE_HZ, **values: Any) -> Clip:
    """Write a float WAV file with exactly these samples, and return its clip."""
    path = folder / f"{name}.wav"
    soundfile.write(path, wav.T, rate, subtype="FLOAT")
    kind = "speech" if name.startswith("speech") else "noise"
    return clip(0, kind, path=str(path), samples=wav.shape[-1], sample_rate_hz=rate, **values)


def wave(seconds: float, seed: int = 0, scale: float = 0.1, rate: int = RATE_HZ) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=scale, size=round(seconds * rate)).astype(np.float32)


def planned(speech: Clip, noise: Clip, seed: int = 0, **values: Any) -> MixPlan:
    return draw_mix(np.random.default_rng(seed), recipe(**values), speech, noise, split="train", plan_row=0)


def rendered(plan: MixPlan) -> Any:
    return render_mix(plan, load_sources(plan))


def noise(**values: Any) -> dict[str, Any]:
    """The recipe values for a choice of noise."""
    return {"noise": NoiseChoice(**values)}


def every_choice(*, min_talkers: int, max_talkers: int) -> dict[str, Any]:
    """Recipe values with which everything that can be drawn is drawn."""
    return {
        **noise(
            min_count=1,
            max_count=3,
            kinds={"recording": 2, "babble": 1, "speech_shaped": 1},
            min_talkers=min_talkers,
            max_talkers=max_talkers,
            fill="concatenate",
            room_share=0.5,
        ),
        "room_share": 0.5,
        "target": "early",
        "speech_fill": "concatenate",
        "snr_measure": "active",
    }
