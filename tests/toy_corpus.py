"""A small corpus for tests, with noise bursts in place of speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from rwsa.files import sha256_of

RATE_HZ = 16000
CARD = """
name: toy
description: Noise bursts in place of speech.
sample_rate_hz: 16000
licence: CC0
speech: [{{root: {root}/speech, pattern: '(?P<split>\\w+)/(?P<speaker>\\w+)\\.wav'}}]
noise: [{{root: {root}/noise, pattern: '(?P<split>\\w+)/(?P<recording>\\w+)\\.wav'}}]
"""
RECIPE = """
name: toy
seconds: 0.5
min_snr_db: -5
max_snr_db: 10
examples: {train: 21, valid: 5}
seed: 3
"""


def write_corpus(root: Path) -> None:
    rng = np.random.default_rng(0)
    for kind, number in (("speech", 5), ("noise", 4)):
        for split in ("train", "valid"):
            (root / kind / split).mkdir(parents=True)
            for name in range(number):
                wav = rng.normal(scale=0.1, size=2 * RATE_HZ)
                soundfile.write(root / kind / split / f"{split}_{kind}{name}.wav", wav, RATE_HZ)
    (root / "card.yaml").write_text(CARD.format(root=root))
    (root / "recipe.yaml").write_text(RECIPE)


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
