"""Model configuration, and named sizes: those of the paper, its baseline, and `nano` for demonstrations."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rwsa.config import config
from rwsa.errors import InputError
from rwsa.stft import SpectralConfig

Architecture = Literal["rwsa", "mambattention"]
Sharing = Literal["resolution", "blend", "block", "none", "off"]
Phase = Literal["absolute", "residual"]
Positive = Annotated[int, Field(gt=0, le=512)]


@config
class ModelConfig:
    """Architecture and sizes of a model.

    Attributes:
        architecture: `rwsa`, the paper's U-Net; `mambattention`, the baseline (arXiv 2507.00966): blocks
            between encoder and decoders without a U-Net, so `depth` and `middle_heads` do not apply.
        channels: C; level k of the U-Net (from 1) has width C·k.
        blocks: N, MambAttention blocks per stage.
        depth: number of levels; the deepest is the middle. T and F/2 are padded to multiples of 2^(depth-1).
        sharing: which attention modules are shared. `resolution` (the paper's RWSA): between time and
            frequency in a block, and between encoder and decoder blocks of one level; `block`: between time
            and frequency only; `none`: not at all; `off`: no attention. `blend` (not in the paper): as
            `block`, but each decoder block mixes its attention with that of the encoder at its level, by a
            learned share. `mambattention` has a single resolution, hence neither `resolution` nor `blend`.
        phase: output of the phase decoder. `absolute` (the paper's): the clean phase, initially random and
            slow to learn; `residual`: a correction of the noisy phase, initially 0.
        heads: attention heads outside the middle. The same in all sharing modes, so that an ablation changes
            one factor.
        middle_heads: attention heads in the middle.
        d_state, d_conv, expand: Mamba-1's N, convolution width and expansion.
        spectral: STFT parameters.
        segment_frames: segment length in training and enhancement; instance norm and attention depend on it.
    """

    architecture: Architecture = "rwsa"
    channels: Positive = 16
    blocks: Positive = 2
    depth: Annotated[int, Field(ge=2, le=4)] = 3
    sharing: Sharing = "resolution"
    phase: Phase = "absolute"
    heads: Positive = 4
    middle_heads: Positive = 8
    d_state: Positive = 16
    d_conv: Positive = 4
    expand: Positive = 4
    spectral: SpectralConfig = SpectralConfig()
    segment_frames: Annotated[int, Field(gt=0, le=65_536)] = 256

    @property
    def segment_samples(self) -> int:
        """30,600 samples (1.9 s) in the paper."""
        return self.spectral.samples(self.segment_frames)

    @property
    def summary(self) -> str:
        """A short description."""
        depth = f"depth {self.depth}" if self.architecture == "rwsa" else self.architecture
        return f"C {self.channels}, N {self.blocks}, {depth}, sharing {self.sharing}"

    def __post_init__(self) -> None:
        if self.architecture == "rwsa":
            self._check_unet()
        else:
            self._check_mambattention()

    def _check_mambattention(self) -> None:
        if (self.depth, self.middle_heads) != (ModelConfig.depth, ModelConfig.middle_heads):
            raise ValueError("mambattention has no U-Net; leave depth and middle_heads out, and set heads")
        if self.sharing in ("resolution", "blend"):
            raise ValueError(
                f"sharing '{self.sharing}' is between encoder and decoder, and mambattention has neither:"
                " choose block, none or off"
            )
        if self.channels % self.heads:
            raise ValueError(f"width {self.channels} must divide by {self.heads} heads")
        if self.spectral.bins < 5 or self.spectral.bins % 2 == 0:
            raise ValueError(f"{self.spectral.bins} bins; mambattention needs an odd number, at least 5")

    def _check_unet(self) -> None:
        for level in range(1, self.depth + 1):
            heads = self.middle_heads if level == self.depth else self.heads
            if self.channels * level % heads:
                raise ValueError(
                    f"width {self.channels * level} of level {level} must divide by {heads} heads"
                )
        if self.channels % 4:
            raise ValueError(f"channels is {self.channels}; it must divide by 4, for the pixel shuffles")
        if self.spectral.bins % 2**self.depth:
            raise ValueError(
                f"{self.spectral.bins} bins must divide by {2**self.depth} at depth {self.depth}"
            )


SIZES = {
    "nano": ModelConfig(
        channels=8,
        blocks=1,
        d_state=8,
        expand=2,
        heads=2,
        middle_heads=4,
        phase="residual",
        segment_frames=64,
        spectral=SpectralConfig(hop_samples=240),
    ),
    "xs": ModelConfig(channels=16, blocks=2),
    "s": ModelConfig(channels=16, blocks=4),
    "m": ModelConfig(channels=24, blocks=4),
    "mambattention": ModelConfig(
        architecture="mambattention",
        channels=64,
        blocks=4,
        sharing="block",
        heads=8,
        segment_frames=321,
        spectral=SpectralConfig(n_fft=400, hop_samples=100, window_samples=400),
    ),
}


def size(name: str) -> ModelConfig:
    """The configuration of a named size.

    Raises:
        InputError: no size has this name.
    """
    if name not in SIZES:
        raise InputError(f"model size '{name}' is unknown; choose {', '.join(SIZES)}")
    return SIZES[name]
