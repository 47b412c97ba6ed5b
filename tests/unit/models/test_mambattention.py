"""The baseline without a U-Net: size, sharing, lengths, enhancement and training.

Legend: B batch, F frequency bins, T frames.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rwsa
from rwsa.config import build
from rwsa.errors import InputError
from rwsa.models import MambAttention, ModelConfig, build_model, load_model, save_model
from rwsa.models.config import Sharing, size
from rwsa.shards.sampling import Cursor
from rwsa.stft import SpectralConfig, stft
from rwsa.training.config import DataConfig, TrainConfig
from rwsa.training.context import LocalContext
from rwsa.training.data import SegmentBatch
from rwsa.training.state import TrainState
from rwsa.training.step import TrainStep
from tests.tensors import normal, parameters

TINY = ModelConfig(
    architecture="mambattention",
    channels=6,
    blocks=2,
    sharing="block",
    heads=2,
    d_state=4,
    expand=2,
    segment_frames=20,
    spectral=SpectralConfig(n_fft=40, hop_samples=10, window_samples=40),
)
BINS = TINY.spectral.bins


def tiny(**changes: Any) -> ModelConfig:
    return dataclasses.replace(TINY, **changes)


class TestParameters:
    def test_the_papers_baseline(self) -> None:
        assert parameters(build_model(size("mambattention"))) == 2_325_841

    # One attention of width 6 has 4 · 6² + 6 · 6 = 180 weights.
    def test_each_sharing_mode(self) -> None:
        counts = {s: parameters(build_model(tiny(sharing=s))) for s in ("off", "block", "none")}
        assert counts["block"] - counts["off"] == 2 * 180
        assert counts["none"] - counts["off"] == 4 * 180

    def test_every_parameter_has_a_gradient(self) -> None:
        model = build_model(TINY)
        mag_BFT, pha_BFT = model(normal(1, BINS, 8).abs(), normal(1, BINS, 8, seed=1))
        named = dict(model.named_parameters())
        gradients = torch.autograd.grad(mag_BFT.sum() + pha_BFT.sum(), list(named.values()))
        assert [n for n, g in zip(named, gradients, strict=True) if not torch.isfinite(g).all()] == []
        # A bias before an instance norm has no effect; every other parameter has one.
        still = [n for n, g in zip(named, gradients, strict=True) if g.abs().max() == 0]
        assert [name for name in still if not name.endswith("bias")] == []


class TestSharing:
    @pytest.mark.parametrize("sharing", ["block", "none", "off"])
    def test_sharing_survives_copying_and_loading(self, tmp_path: Path, sharing: Sharing) -> None:
        model = build_model(tiny(sharing=sharing))
        save_model(tmp_path / "m.safetensors", model)
        loaded = load_model(tmp_path / "m.safetensors")
        assert loaded.config == model.config
        for each in (model, copy.deepcopy(model), loaded):
            assert isinstance(each, MambAttention)
            pairs = [(block.time_attention, block.frequency_attention) for block in each.blocks]
            assert [a is b for a, b in pairs] == [sharing != "none"] * 2
            assert [a is None for a, _ in pairs] == [sharing == "off"] * 2
            if sharing != "off":
                assert pairs[0][0] is not pairs[1][0]
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


class TestShapes:
    @pytest.mark.parametrize("n_fft", [8, 40, 400])
    @pytest.mark.parametrize("frames", [1, 2, 3, 5, 21])
    def test_any_number_of_frames_is_preserved(self, n_fft: int, frames: int) -> None:
        model = build_model(tiny(spectral=SpectralConfig(n_fft=n_fft))).eval()
        bins = n_fft // 2 + 1
        with torch.inference_mode():
            mag_BFT, pha_BFT = model(normal(3, bins, frames).abs(), normal(3, bins, frames, seed=1))
        assert mag_BFT.shape == pha_BFT.shape == (3, bins, frames)
        assert torch.isfinite(mag_BFT).all()
        assert (mag_BFT >= 0).all()
        assert (pha_BFT.abs() <= math.pi + 1e-6).all()

    def test_a_residual_phase_is_initially_the_noisy_one(self) -> None:
        model, pha = build_model(tiny(phase="residual")).eval(), normal(2, BINS, 8, seed=1)
        with torch.inference_mode():
            _, enhanced = model(normal(2, BINS, 8).abs(), pha)
        torch.testing.assert_close(enhanced, pha)

    def test_clips_of_a_batch_are_independent(self) -> None:
        model, mag, pha = build_model(TINY).eval(), normal(3, BINS, 8).abs(), normal(3, BINS, 8, seed=1)
        with torch.inference_mode():
            together, _ = model(mag, pha)
            alone, _ = model(mag[1:2], pha[1:2])
        torch.testing.assert_close(together[1:2], alone)

    def test_the_papers_segment(self) -> None:
        config = size("mambattention")
        assert config.segment_samples == 32_000
        mag_BFT, _ = stft(normal(1, config.segment_samples), config.spectral)
        assert mag_BFT.shape == (1, 201, 321)


class TestConfig:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (
                {"sharing": "resolution"},
                "sharing 'resolution' is between encoder and decoder, and mambattention has neither",
            ),
            ({"depth": 2}, "mambattention has no U-Net; leave depth and middle_heads out"),
            ({"middle_heads": 4}, "mambattention has no U-Net; leave depth and middle_heads out"),
            ({"channels": 9}, "width 9 must divide by 2 heads"),
            ({"spectral": {"n_fft": 510}}, "256 bins; mambattention needs an odd number, at least 5"),
            ({"architecture": "mamba"}, "'architecture' is 'mamba'"),
        ],
    )
    def test_invalid_configurations_are_refused(self, values: dict[str, Any], message: str) -> None:
        values = {"architecture": "mambattention", "channels": 6, "heads": 2, "sharing": "block"} | values
        with pytest.raises(InputError) as caught:
            build(ModelConfig, values, where="model.yaml")
        assert str(caught.value).startswith("model.yaml: ")
        assert message in str(caught.value)


def test_it_enhances_at_any_length_and_rate() -> None:
    model = build_model(TINY).eval()
    for samples, rate_hz in ((1, 16_000), (199, 16_000), (1001, 44_100)):
        wav = np.random.default_rng(0).uniform(-0.5, 0.5, (2, samples)).astype(np.float32)
        enhanced = rwsa.enhance(wav, rate_hz, model)
        assert enhanced.shape == wav.shape
        assert np.isfinite(enhanced).all()


def test_a_training_step_updates_it(tmp_path: Path) -> None:
    config = TrainConfig(name="x", model=tiny(segment_frames=40), data=DataConfig(shards="none"), max_steps=1)
    context = LocalContext(tmp_path)
    state = TrainState(config, context.device)
    before = [p.detach().clone() for p in state.generator.parameters()]
    clean = normal(2, config.model.segment_samples)
    segments = SegmentBatch(
        noisy=clean + normal(*clean.shape, seed=1), clean=clean, ids=("a", "b"), cursor_after=Cursor()
    )
    losses = TrainStep(state, context, adversary=None)(segments)
    assert all(torch.isfinite(value) for value in losses.values())
    moved = [not torch.equal(a, b) for a, b in zip(before, state.generator.parameters(), strict=True)]
    assert all(moved)
