"""The phase of the first frame: rounding decides it in the authors' STFT, and nothing does in ours.

`pytest -rP` prints how many bins change between float32 and float64, and how far the enhanced signals of
networks of random weights move, relative to the largest value.

Legend: F frequency bins, T frames.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rwsa.models import Network, load_model
from rwsa.stft import SpectralConfig, istft, stft

# Where the stored weights and signals are.
NETWORKS = {
    "xs": ("RWSA_xs_random.pth", "RWSA_xs_random_io.npz"),
    **{
        name: (f"baselines/{name}_random.pth", f"baselines/{name}_io.npz")
        for name in ("semamba", "mpsenet", "xlstm_senet", "lstm_senet")
    },
}


def authors_stft(wav: Tensor, config: SpectralConfig) -> tuple[Tensor, Tensor]:
    window = torch.hann_window(config.window_samples, dtype=wav.dtype)
    spectrum = torch.stft(
        wav, config.n_fft, config.hop_samples, config.window_samples, window, return_complex=True
    )
    return spectrum.abs().pow(config.compression), spectrum.angle()


def output(model: Network, mag_BFT: Tensor, pha_BFT: Tensor) -> Tensor:
    with torch.inference_mode():
        return istft(*model(mag_BFT.float(), pha_BFT.float()), model.config.spectral)


def moved(one: Tensor, other: Tensor) -> float:
    return ((one - other).abs().max() / other.abs().max()).item()


@pytest.mark.parametrize("name", NETWORKS)
def test_our_first_frame_is_the_same_in_both_precisions(official: Path, name: str) -> None:
    weights, signals = (official / path for path in NETWORKS[name])
    if not weights.is_file():
        pytest.skip(f"no file {weights}")
    model = load_model(weights)
    with np.load(signals) as file:
        wav = torch.from_numpy(file["wav"])
    spectral = model.config.spectral
    rows = {}
    for who, transform in (("authors", authors_stft), ("ours", stft)):
        single, double = transform(wav, spectral), transform(wav.double(), spectral)
        flips = ((single[1] - double[1])[..., 0].abs() > math.pi).sum().item()
        rows[who] = (flips, output(model, *single), output(model, *double))
    apart = {who: moved(single, double) for who, (_, single, double) in rows.items()}
    between = moved(rows["ours"][1], rows["authors"][1])
    changed = {who: row[0] for who, row in rows.items()}
    bins = wav.shape[0] * spectral.bins
    print(f"{name}: of {bins} bins {changed['authors']} change, of ours {changed['ours']}")
    print(f"output moves by {apart['authors']:.1e}, ours by {apart['ours']:.1e}; apart {between:.1%}")
    assert rows["ours"][0] == 0 < rows["authors"][0]
    # In other frames, single bins lie within rounding of ±π.
    assert apart["ours"] < 0.02 < apart["authors"]
    assert between < 0.5
