"""Model configuration, and named sizes: the paper's, its baselines', and `nano` for demonstrations."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from rwsa.config import config
from rwsa.errors import InputError
from rwsa.stft import SpectralConfig

Architecture = Literal["rwsa", "mambattention"]
Mixer = Literal["mamba", "conformer", "mlstm", "lstm", "none"]
Sharing = Literal["resolution", "blend", "block", "none", "off"]
Phase = Literal["absolute", "residual"]
ConformerAttention = Literal["sequence", "batch"]
Positive = Annotated[int, Field(gt=0, le=512)]
# Whole numbers stay integers, so that hashes of earlier configurations stay valid.
Multiple = Annotated[
    float, Field(gt=0, le=512), AfterValidator(lambda value: int(value) if value == int(value) else value)
]
# Keys that each mixer reads.
_KEYS_OF_MIXERS = MappingProxyType(
    {
        "mamba": {"d_state", "d_conv", "expand"},
        "conformer": {"expand", "conformer_attention"},
        "mlstm": {"d_conv", "expand"},
        "lstm": {"expand"},
        "none": set[str](),
    }
)
# Later keys, left out of stored configurations at these values: hashes of earlier versions stay valid.
_LATER_KEYS = MappingProxyType({"mixer": "mamba", "conformer_attention": "sequence"})


@config
class ModelConfig:
    """Architecture and sizes of a model.

    Attributes:
        architecture: `rwsa`, the paper's U-Net; `mambattention`, that of all baselines (arXiv 2507.00966):
            blocks between encoder and decoders without a U-Net, so `depth` and `middle_heads` do not apply.
        mixer: what runs along time and frequency in every block, after attention. `mamba` (the paper's):
            Mamba-1 in each direction; `conformer`: MP-SENet's; `mlstm`: xLSTM's mLSTM block in each
            direction; `lstm`: a bidirectional LSTM; `none`: attention alone.
        conformer_attention: what the Conformer attends along. `sequence`: its own axis; `batch`: as in
            MP-SENet's published code, all positions across that axis, of all clips of the batch. Its results
            then depend on the batch, but published weights need it.
        channels: C; level k of the U-Net (from 1) has width C·k.
        blocks: N, blocks per stage, each along time, then along frequency.
        depth: number of levels; the deepest is the middle. T and F/2 are padded to multiples of 2^(depth-1).
        sharing: which attention modules are shared. `resolution` (the paper's RWSA): between time and
            frequency in a block, and between encoder and decoder blocks of one level; `block`: between time
            and frequency only; `none`: not at all; `off`: no attention. `blend` (not in the paper): as
            `block`, but each decoder block mixes its attention with that of the encoder at its level, by a
            learned share. `mambattention` has a single resolution, hence neither `resolution` nor `blend`.
        phase: output of the phase decoder. `absolute` (the paper's): the clean phase, initially random and
            slow to learn; `residual`: a correction of the noisy phase, initially 0.
        heads: heads of attention, Conformer and mLSTM outside the middle. The same in all sharing modes, so
            that an ablation changes one factor.
        middle_heads: heads in the middle.
        d_state: states of Mamba-1.
        d_conv: width of the causal convolution of Mamba-1 and mLSTM.
        expand: the mixer's inner width as a multiple of the stage's: of Mamba-1 and mLSTM, the Conformer's
            feed-forward and pointwise layers, an LSTM's units in each direction. Of the last two it may be a
            fraction that gives whole (the Conformer: even) widths.
        spectral: STFT parameters.
        segment_frames: segment length in training and enhancement; instance norm and attention depend on it.
    """

    architecture: Architecture = "rwsa"
    mixer: Mixer = "mamba"
    conformer_attention: ConformerAttention = "sequence"
    channels: Positive = 16
    blocks: Positive = 2
    depth: Annotated[int, Field(ge=2, le=4)] = 3
    sharing: Sharing = "resolution"
    phase: Phase = "absolute"
    heads: Positive = 4
    middle_heads: Positive = 8
    d_state: Positive = 16
    d_conv: Positive = 4
    expand: Multiple = 4
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
        mixer = "" if self.mixer == "mamba" else f"{self.mixer}, "
        across = "attention across the batch, " if self.mixes_clips else ""
        return f"C {self.channels}, N {self.blocks}, {depth}, {mixer}{across}sharing {self.sharing}"

    @property
    def mixes_clips(self) -> bool:
        """Whether a clip's output depends on the other clips of its batch, also outside training."""
        return self.conformer_attention == "batch"

    @model_serializer(mode="wrap")
    def _stored(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self) | {"expand": self.expand}  # not 4.0
        return {name: value for name, value in values.items() if _LATER_KEYS.get(name) != value}

    def __post_init__(self) -> None:
        self._check_mixer()
        if self.architecture == "rwsa":
            self._check_unet()
        else:
            self._check_mambattention()

    def _check_mixer(self) -> None:
        of_mixers = set[str]().union(*_KEYS_OF_MIXERS.values())
        for field in dataclasses.fields(self):
            unused = field.name in of_mixers - _KEYS_OF_MIXERS[self.mixer]
            if unused and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"mixer '{self.mixer}' has no {field.name}; leave it out, or set it to {field.default}"
                )
        if self.mixer == "none" and self.sharing == "off":
            raise ValueError("mixer 'none' with sharing 'off' leaves nothing along time and frequency")
        if self.mixer in ("mamba", "mlstm") and self.expand != int(self.expand):
            raise ValueError(f"expand is {self.expand}; it must be whole for the mixer '{self.mixer}'")
        inner = self.channels * self.expand  # deeper levels have multiples of it
        if self.mixer == "lstm" and inner != int(inner):
            raise ValueError(f"{self.channels} channels times expand {self.expand} must be whole, for LSTM")
        if self.mixer == "conformer" and inner % 2:
            raise ValueError(
                f"{self.channels} channels times expand {self.expand} must be even, for the Conformer's gated"
                " halves"
            )
        if self.mixer == "mlstm":
            self._check_mlstm()

    def _check_mlstm(self) -> None:
        """Every head holds whole blocks of four channels, which the projections mix."""
        widths = {self.channels * level: self.heads for level in range(1, self.depth)}
        widths[self.channels * self.depth] = self.middle_heads
        if self.architecture != "rwsa":
            widths = {self.channels: self.heads}
        for width, heads in widths.items():
            if width * self.expand % (4 * heads):
                raise ValueError(
                    f"width {width} times expand {self.expand} must divide by 4 times {heads} heads, for"
                    " mLSTM"
                )

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


def _baseline(**values: Any) -> ModelConfig:
    """A baseline of the paper's Table 1."""
    shared: dict[str, Any] = {
        "architecture": "mambattention",
        "channels": 64,
        "blocks": 4,
        "sharing": "off",
        "segment_frames": 321,
        "spectral": SpectralConfig(n_fft=400, hop_samples=100, window_samples=400),
    }
    return ModelConfig(**(shared | values))


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
    "mambattention": _baseline(sharing="block", heads=8),
    "semamba": _baseline(),
    "mpsenet": _baseline(mixer="conformer"),
    "xlstm_senet": _baseline(mixer="mlstm"),
    # A reconstruction from parameter and operation counts: no code was published.
    "lstm_senet": _baseline(mixer="lstm", expand=1, blocks=8),
}


def size(name: str) -> ModelConfig:
    """The configuration of a named size.

    Raises:
        InputError: no size has this name.
    """
    if name not in SIZES:
        raise InputError(f"model size '{name}' is unknown; choose {', '.join(SIZES)}")
    return SIZES[name]
