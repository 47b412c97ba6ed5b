"""The forward pass and one training step by every scan backend, against results of the authors' code.

Legend: B batch, F frequency bins, T frames.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rwsa.files import read_json
from rwsa.kernels.scan import BACKENDS, missing_backends, use_backend
from rwsa.losses import LossWeights, discriminator_losses, metric_loss, spectral_losses, weighted_total
from rwsa.models import RWSAMambaUNet, load_model
from rwsa.models.discriminator import MetricDiscriminator
from rwsa.models.weights import load_weights
from rwsa.stft import SpectralConfig, istft, stft

WEIGHTS = {"with_metric": LossWeights(), "without_metric": LossWeights(metric=0)}

# The authors' modules and our parameters in them; a shared attention counts once in both.
MODULES = {
    "dense_encoder": r"encoder\..*",
    "patch_embed_encoder_level1": r"down_stages\.0\.patch_embed\..*",
    "shared_attention_lvl1": r"down_stages\.0\.blocks\.\d+\.time_attention\..*",
    "TSMamba1_encoder": r"down_stages\.0\.blocks\.\d+\.\w+_mamba\..*",
    "down1_2": r"downsamples\.0\..*",
    "patch_embed_encoder_level2": r"down_stages\.1\.patch_embed\..*",
    "shared_attention_lvl2": r"down_stages\.1\.blocks\.\d+\.time_attention\..*",
    "TSMamba2_encoder": r"down_stages\.1\.blocks\.\d+\.\w+_mamba\..*",
    "down2_3": r"downsamples\.1\..*",
    "patch_embed_middle": r"middle\.patch_embed\..*",
    "TSMamba_middle": r"middle\.blocks\..*",
    "up3_2": r"upsamples\.1\..*",
    "concat_level2": r"merges\.1\..*",
    "patch_embed_decoder_level2": r"up_stages\.1\.patch_embed\..*",
    "TSMamba2_decoder": r"up_stages\.1\.blocks\..*",
    "up2_1": r"upsamples\.0\..*",
    "concat_level1": r"merges\.0\..*",
    "patch_embed_decoder_level1": r"up_stages\.0\.patch_embed\..*",
    "TSMamba1_decoder": r"up_stages\.0\.blocks\..*",
    "mag_patch_embed_refinement": r"magnitude_refinement\.stage\.patch_embed\..*",
    "mag_refinement": r"magnitude_refinement\.stage\.blocks\..*",
    "mag_output": r"magnitude_refinement\.out\..*",
    "pha_patch_embed_refinement": r"phase_refinement\.stage\.patch_embed\..*",
    "pha_refinement": r"phase_refinement\.stage\.blocks\..*",
    "pha_output": r"phase_refinement\.out\..*",
    "mask_decoder": r"magnitude_decoder\..*",
    "phase_decoder": r"phase_decoder\..*",
}


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", autouse=True)
def device(backend: str) -> Iterator[torch.device]:
    """The device of a backend; models that depend on this fixture use the backend."""
    on = torch.device("cuda" if backend in ("triton", "mamba_ssm") else "cpu")
    if on.type == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"scan backend {backend} needs a CUDA device")
    if backend in missing_backends(on):
        pytest.skip(missing_backends(on)[backend])
    with use_backend(backend):
        yield on


@pytest.fixture(scope="module")
def generator(official: Path, device: torch.device) -> RWSAMambaUNet:
    model = load_model(official / "RWSA_xs_random.pth", device=device)
    assert isinstance(model, RWSAMambaUNet)
    return model


@pytest.fixture(scope="module")
def gold(official: Path) -> Any:
    return read_json(official / "gold_step.json")


def arrays(path: Path, device: torch.device) -> dict[str, Tensor]:
    with np.load(path) as file:
        return {name: torch.from_numpy(file[name]).to(device) for name in file.files}


def angle_between(a: Tensor, b: Tensor) -> Tensor:
    return torch.remainder(a - b + math.pi, math.tau).sub(math.pi).abs()


def peak_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def test_forward_pass(official: Path, generator: RWSAMambaUNet, device: torch.device) -> None:
    theirs = arrays(official / "RWSA_xs_random_io.npz", device)
    spectral = generator.config.spectral
    mag_BFT, pha_BFT = stft(theirs["wav"], spectral)
    assert peak_error(mag_BFT, theirs["mag"]) < 1e-5
    assert angle_between(pha_BFT, theirs["pha"])[theirs["mag"] > 0.05].max() < 1e-3
    # In the first frame the authors' phase is ±π where ours is +π.
    assert (pha_BFT[..., 0] - theirs["pha"][..., 0].abs()).abs().max() < 1e-3

    with torch.inference_mode():
        mag_BFT, pha_BFT = generator(theirs["mag"], theirs["pha"])
        wav = istft(mag_BFT, pha_BFT, spectral, theirs["wav"].shape[-1])
    assert peak_error(mag_BFT, theirs["mag_out"]) < 1e-4
    assert peak_error(wav, theirs["wav_out"]) < 1e-4
    # Where real and imaginary part nearly vanish, the angle is inaccurate.
    errors = angle_between(pha_BFT, theirs["pha_out"])[theirs["mag_out"] > 0.05]
    assert errors.max() < 2e-2
    assert errors.mean() < 1e-4


def discriminator_of(official: Path) -> MetricDiscriminator:
    published = torch.load(official / "discriminator_random.pth", weights_only=True)["discriminator"]
    discriminator = MetricDiscriminator()
    load_weights(
        discriminator, {renamed(n): t for n, t in published.items()}, where="discriminator_random.pth"
    )
    return discriminator.eval()


def renamed(theirs: str) -> str:
    """The authors' flat list of layers and older spectral norm, under our names."""
    if theirs == "layers.18.slope":
        return "slope"
    number, part = re.fullmatch(r"layers\.(\d+)\.(\w+)", theirs).groups()  # type: ignore[union-attr]
    layer = {14: "hidden", 16: "act", 17: "score"}.get(int(number), f"convolutions.{number}")
    part = re.sub(r"^weight_([uv])$", r"parametrizations.weight.0._\1", part)
    return f"{layer}.{part.replace('weight_orig', 'parametrizations.weight.original')}"


def authors_stft(wav: Tensor, config: SpectralConfig) -> tuple[Tensor, Tensor]:
    """The authors' STFT, in which rounding decides between +π and −π in the first frame."""
    window = torch.hann_window(config.window_samples, device=wav.device)
    spectrum = torch.stft(
        wav, config.n_fft, config.hop_samples, config.window_samples, window, return_complex=True
    )
    return spectrum.abs().pow(config.compression), torch.atan2(spectrum.imag, spectrum.real)


class Step:
    """Losses of one training step in evaluation mode, with their graph."""

    def __init__(self, official: Path, generator: RWSAMambaUNet, device: torch.device) -> None:
        self.generator, self.discriminator = generator, discriminator_of(official).to(device)
        given, spectral = arrays(official / "gold_step_io.npz", device), generator.config.spectral
        mag_BFT, pha_BFT = generator(*authors_stft(given["noisy"], spectral))
        clean_BFT, _ = stft(given["clean"], spectral)
        self.losses = spectral_losses(mag_BFT, pha_BFT, given["clean"], spectral)
        self.losses["metric"] = metric_loss(self.discriminator(clean_BFT, mag_BFT))
        self.discriminator_losses = discriminator_losses(
            self.discriminator(clean_BFT, clean_BFT),
            self.discriminator(clean_BFT, mag_BFT.detach()),
            given["pesq_target"],
        )

    def generator_gradients(self, weights: LossWeights) -> dict[str, Tensor]:
        named = dict(self.generator.named_parameters())
        total = weighted_total(self.losses, weights)
        gradients = torch.autograd.grad(total, list(named.values()), retain_graph=True)
        return dict(zip(named, gradients, strict=True))


@pytest.fixture(scope="module")
def step(official: Path, generator: RWSAMambaUNet, backend: str, device: torch.device) -> Step:
    if backend == "reference":
        pytest.skip("takes minutes; test_scan.py compares every gradient of the others with the reference's")
    return Step(official, generator, device)


def norm(gradients: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(gradient.square().sum().item() for gradient in gradients.values()))


@pytest.mark.parametrize("kind", WEIGHTS)
def test_every_loss_of_a_training_step(step: Step, gold: Any, kind: str) -> None:
    losses = step.losses | {"total": weighted_total(step.losses, WEIGHTS[kind])}
    if kind == "with_metric":
        losses |= step.discriminator_losses
    else:
        del losses["metric"]
    expected = {name: value for name, value in gold["losses"][kind].items() if "grad_norm" not in name}
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected, rel=1e-3, abs=0)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_generator_gradient_norms_in_total_and_by_module(step: Step, gold: Any, kind: str) -> None:
    gradients = step.generator_gradients(WEIGHTS[kind])
    assert norm(gradients) == pytest.approx(gold["losses"][kind]["generator_grad_norm"], rel=1e-2)
    parts = {
        module: {name: gradients[name] for name in gradients if re.fullmatch(pattern, name)}
        for module, pattern in MODULES.items()
    }
    assert sorted(name for part in parts.values() for name in part) == sorted(gradients)
    measured = {module: norm(part) for module, part in parts.items()}
    assert measured == pytest.approx(gold["generator_grad_norm_by_module"][kind], rel=1e-2, abs=0)


def test_discriminator_gradient_norm(step: Step, gold: Any) -> None:
    total = torch.stack(list(step.discriminator_losses.values())).sum()
    named = dict(step.discriminator.named_parameters())
    gradients = dict(
        zip(named, torch.autograd.grad(total, list(named.values()), retain_graph=True), strict=True)
    )
    assert norm(gradients) == pytest.approx(
        gold["losses"]["with_metric"]["discriminator_grad_norm"], rel=1e-2
    )
