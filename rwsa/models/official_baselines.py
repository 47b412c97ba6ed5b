"""Generator weights of the paper's baselines, in the formats that their authors publish.

MambAttention (`TFMambAttention`, source: models/generator.py of NikolaiKyhne/MambAttention, 324d4c6), SEMamba
(`TSMamba`), MP-SENet's Conformer version (`TSConformer`) and xLSTM-SENet (`TSxLSTM`) have the names of their
repositories; of LSTM-SENet no code was published, and `TSLSTM` is a name of this project's own.
MP-SENet's later Transformer version is another network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rwsa.config import build
from rwsa.errors import InputError
from rwsa.models.config import ModelConfig

# The first part of the names of each network's blocks, and its mixer.
_MIXERS = {
    "TFMambAttention": "mamba",
    "TSMamba": "mamba",
    "TSConformer": "conformer",
    "TSxLSTM": "mlstm",
    "TSLSTM": "lstm",
}
_LATER_MPSENET = "TSTransformer."
# Prefixes of the authors' names to prefixes of ours, of encoder and decoders, in all published formats.
COMMON_PREFIXES = {
    "dense_encoder.dense_conv_1.": "encoder.widen.",
    "dense_encoder.dense_block.dense_block.": "encoder.dense.layers.",
    "dense_encoder.dense_conv_2.": "encoder.halve.",
    "mask_decoder.dense_block.dense_block.": "magnitude_decoder.dense.layers.",
    "mask_decoder.lsigmoid.": "magnitude_decoder.",
    "phase_decoder.dense_block.dense_block.": "phase_decoder.dense.layers.",
    "phase_decoder.phase_conv_r.": "phase_decoder.real.",
    "phase_decoder.phase_conv_i.": "phase_decoder.imaginary.",
}
_PREFIXES = {
    **COMMON_PREFIXES,
    "mask_decoder.mask_conv.0.": "magnitude_decoder.upsample.",
    "mask_decoder.mask_conv.1.": "magnitude_decoder.to_mask.0.",
    "mask_decoder.mask_conv.2.": "magnitude_decoder.to_mask.1.",
    "mask_decoder.mask_conv.3.": "magnitude_decoder.to_mask.2.",
    "mask_decoder.mask_conv.4.": "magnitude_decoder.to_mask.3.",
    "phase_decoder.phase_conv.0.": "phase_decoder.upsample.",
    "phase_decoder.phase_conv.1.": "phase_decoder.norm_act.0.",
    "phase_decoder.phase_conv.2.": "phase_decoder.norm_act.1.",
}
# Names within a mixer, theirs to ours, by mixer; a part is replaced at the start of the rest of the name.
_PARTS = {
    "mamba": {
        "forward_blocks.0.mixer.conv1d.": "mixers.0.conv.",
        "backward_blocks.0.mixer.conv1d.": "mixers.1.conv.",
        "forward_blocks.0.mixer.": "mixers.0.",
        "backward_blocks.0.mixer.": "mixers.1.",
        "forward_blocks.0.norm.": "norms.0.",
        "backward_blocks.0.norm.": "norms.1.",
    },
    "conformer": {
        **{
            f"{theirs}.ffm.{number}.": f"{ours}.{layer}."
            for theirs, ours in (("ffm1", "first"), ("ffm2", "second"))
            for number, layer in ((0, "norm"), (1, "widen"), (4, "narrow"))
        },
        "attn.attn.in_proj_": "attention.qkv.",
        "attn.attn.out_proj.": "attention.out.",
        "attn.layernorm.": "attention.norm.",
        "ccm.ccm.0.": "convolution.norm.",
        "ccm.ccm.2.": "convolution.widen.",
        "ccm.ccm.4.": "convolution.depthwise.",
        "ccm.ccm.5.": "convolution.batch_norm.",
        "ccm.ccm.7.": "convolution.narrow.",
        "post_norm.": "norm.",
    },
    "mlstm": {
        f"{direction}_blocks.0.{theirs}": f"directions.{number}.{ours}"
        for number, direction in enumerate(("forward", "backward"))
        for theirs, ours in {
            "norm.": "norm.",
            "layer.learnable_skip": "skip",
            "layer.proj_up.": "up.",
            "layer.proj_down.": "down.",
            "layer.q_proj.": "query.",
            "layer.k_proj.": "key.",
            "layer.v_proj.": "value.",
            "layer.conv.conv.": "conv.",
            "layer.mlstm_cell.igate.": "input_gate.",
            "layer.mlstm_cell.fgate.": "forget_gate.",
            "layer.mlstm_cell.outnorm.": "head_norm.",
        }.items()
    },
    "lstm": {"weight_": "lstm.weight_", "bias_": "lstm.bias_"},
}
# Names of MambAttention's attention, which time and frequency share.
_ATTENTION = {"attn.in_proj_": "qkv.", "attn.out_proj.": "out.", "layernorm.": "norm."}
_MAMBATTENTION_HEADS = 8
# A batch norm's count of batches, which with a constant momentum has no effect.
_UNUSED = ".num_batches_tracked"


def is_baseline(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a baseline."""
    return _family(tensors) is not None or any(name.startswith(_LATER_MPSENET) for name in tensors)


def read_baseline(state: Mapping[str, Tensor], *, where: str) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Translate a baseline's generator state dict.

    Args:
        state: the authors' `checkpoint["generator"]`.
        where: the file's name, for error messages.

    Returns:
        The configuration inferred from shapes (heads, STFT and segment as published), and the weights under
        this project's names.

    Raises:
        InputError: a name is not of this format, or the network is MP-SENet's later Transformer version.
    """
    family = _family(state)
    if family is None:
        raise InputError(
            f"{where}: is MP-SENet's later Transformer version, which is not supported; give the Conformer"
            " version, that of the paper's Table 1"
        )
    weights: dict[str, Tensor] = {}
    for theirs, tensor in state.items():
        if not theirs.endswith(_UNUSED):
            ours = _rename(theirs, family, where)
            weights[ours] = _reshaped(ours, tensor)
    return build(ModelConfig, _values(weights, family, where), where=where), weights


def _family(tensors: Mapping[str, Tensor]) -> str | None:
    first_parts = {name.split(".")[0] for name in tensors}
    return next((family for family in _MIXERS if family in first_parts), None)


def _rename(theirs: str, family: str, where: str) -> str:
    for prefix, ours in _PREFIXES.items():
        if theirs.startswith(prefix):
            return ours + theirs.removeprefix(prefix)
    mixer = _MIXERS[family]
    if match := re.fullmatch(rf"{family}\.(\d+)\.(time|freq)_\w+?\.(.+)", theirs):
        number, axis, rest = match.groups()
        for part, ours in _PARTS[mixer].items():
            if rest.startswith(part):
                return f"{_mixer_name(number, axis, mixer)}.{ours}{rest.removeprefix(part)}"
    if match := re.fullmatch(rf"{family}\.(\d+)\.(t|f)linear\.(weight|bias)", theirs):
        number, axis, kind = match.groups()
        return f"{_mixer_name(number, axis, mixer)}.merge.{kind}"
    if match := re.fullmatch(rf"{family}\.(\d+)\.attention\.(.+)", theirs):
        number, rest = match.groups()
        for part, ours in _ATTENTION.items():
            if rest.startswith(part):
                return f"blocks.{number}.time_attention.{ours}{rest.removeprefix(part)}"
    raise InputError(f"{where}: '{theirs}' is not a name of the published format of its network")


def _mixer_name(number: str, axis: str, mixer: str) -> str:
    return f"blocks.{number}.{'time' if axis.startswith('t') else 'frequency'}_{mixer}"


def _reshaped(name: str, tensor: Tensor) -> Tensor:
    if name.endswith(".merge.weight") and tensor.dim() == 3:  # a transposed convolution of width 1
        return tensor.squeeze(-1).t()
    if re.search(r"\.convolution\.(widen|narrow)\.weight$", name) and tensor.dim() == 3:  # of width 1
        return tensor.squeeze(-1)
    return tensor


def _values(weights: Mapping[str, Tensor], family: str, where: str) -> dict[str, Any]:
    mixer, first = _MIXERS[family], f"blocks.0.time_{_MIXERS[family]}."
    sizes: dict[str, Any]
    try:
        channels = len(weights["encoder.widen.0.weight"])
        bins = len(weights["magnitude_decoder.slope"])
        match mixer:
            case "mamba":
                inner, states = weights[f"{first}mixers.0.A_log"].shape
                taps = weights[f"{first}mixers.0.conv.weight"].shape[-1]
                sizes = {"expand": inner // channels, "d_state": states, "d_conv": taps}
            case "conformer":
                wide = len(weights[f"{first}first.widen.weight"])
                sizes = {"expand": wide // channels, "conformer_attention": "batch"}
            case "mlstm":
                taps = weights[f"{first}directions.0.conv.weight"].shape[-1]
                wide = len(weights[f"{first}directions.0.skip"])
                sizes = {"expand": wide // channels, "d_conv": taps}
            case _:
                sizes = {"expand": weights[f"{first}lstm.weight_hh_l0"].shape[-1] // channels}
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{where}: lacks a tensor of the published format, or its shape ({error})") from None
    if "blocks.0.time_attention.qkv.weight" in weights:
        sizes |= {"sharing": "block", "heads": _MAMBATTENTION_HEADS}
    return {
        "architecture": "mambattention",
        "mixer": mixer,
        "channels": channels,
        "blocks": len({name.split(".")[1] for name in weights if name.startswith("blocks.")}),
        "sharing": "off",
        "segment_frames": 321,
        "spectral": {"n_fft": 2 * (bins - 1), "hop_samples": 100, "window_samples": 2 * (bins - 1)},
        **sizes,
    }
