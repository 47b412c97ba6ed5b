"""Generator weights in the format of the paper's authors.

It stores every shared attention three times (in a list, and in the encoder and decoder block); the copies
must be equal. Its names are those of three levels, so only depth 3 has this format. Those of the paper's
baselines are read by `official_baselines.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rwsa.config import build
from rwsa.errors import InputError
from rwsa.models.config import ModelConfig
from rwsa.models.official_baselines import COMMON_PREFIXES, is_baseline, read_baseline

# Prefixes of the authors' names to prefixes of ours.
_PREFIXES = {
    **COMMON_PREFIXES,
    "patch_embed_encoder_level1.": "down_stages.0.patch_embed.",
    "patch_embed_encoder_level2.": "down_stages.1.patch_embed.",
    "patch_embed_decoder_level1.": "up_stages.0.patch_embed.",
    "patch_embed_decoder_level2.": "up_stages.1.patch_embed.",
    "patch_embed_middle.": "middle.patch_embed.",
    "shared_attention_lvl1.": "down_stages.0.blocks.",
    "shared_attention_lvl2.": "down_stages.1.blocks.",
    "TSMamba1_encoder.": "down_stages.0.blocks.",
    "TSMamba2_encoder.": "down_stages.1.blocks.",
    "TSMamba1_decoder.": "up_stages.0.blocks.",
    "TSMamba2_decoder.": "up_stages.1.blocks.",
    "TSMamba_middle.": "middle.blocks.",
    "down1_2.": "downsamples.0.",
    "down2_3.": "downsamples.1.",
    "up2_1.": "upsamples.0.",
    "up3_2.": "upsamples.1.",
    "concat_level1.0.": "merges.0.",
    "concat_level2.0.": "merges.1.",
    "mag_patch_embed_refinement.": "magnitude_refinement.stage.patch_embed.",
    "mag_refinement.": "magnitude_refinement.stage.blocks.",
    "mag_output.0.": "magnitude_refinement.out.",
    "pha_patch_embed_refinement.": "phase_refinement.stage.patch_embed.",
    "pha_refinement.": "phase_refinement.stage.blocks.",
    "pha_output.0.": "phase_refinement.out.",
    "mask_decoder.mask_conv.0.": "magnitude_decoder.upsample.expand.",
    "mask_decoder.mask_conv.2.": "magnitude_decoder.upsample.smooth.",
    "mask_decoder.mask_conv.3.": "magnitude_decoder.to_mask.0.",
    "mask_decoder.mask_conv.4.": "magnitude_decoder.to_mask.1.",
    "mask_decoder.mask_conv.5.": "magnitude_decoder.to_mask.2.",
    "mask_decoder.mask_conv.6.": "magnitude_decoder.to_mask.3.",
    "phase_decoder.phase_conv.0.": "phase_decoder.upsample.expand.",
    "phase_decoder.phase_conv.2.": "phase_decoder.upsample.smooth.",
    "phase_decoder.phase_conv.3.": "phase_decoder.norm_act.0.",
    "phase_decoder.phase_conv.4.": "phase_decoder.norm_act.1.",
}
# Parts of the authors' names to parts of ours, replaced in this order.
_PARTS = {
    "patch_embeds.patch_conv.offset_generator.": "offset.",
    "patch_embeds.patch_conv.dcn.": "deform.",
    "patch_embeds.patch_conv.pwconv.": "mix.",
    ".freq_mamba.": ".frequency_mamba.",
    "forward_blocks.0.mixer.": "mixers.0.",
    "backward_blocks.0.mixer.": "mixers.1.",
    "forward_blocks.0.norm.": "norms.0.",
    "backward_blocks.0.norm.": "norms.1.",
    ".conv1d.": ".conv.",
    ".tlinear.": ".time_mamba.merge.",
    ".flinear.": ".frequency_mamba.merge.",
    ".attention.attn.": ".attn.",
    ".attention.layernorm.": ".layernorm.",
    ".attn.in_proj_": ".time_attention.qkv.",
    ".attn.out_proj.": ".time_attention.out.",
    ".layernorm.": ".time_attention.norm.",
}


def is_official(tensors: Mapping[str, Tensor]) -> bool:
    """Whether any tensor has one of the authors' names, none of which is one of ours."""
    return is_baseline(tensors) or any(name.startswith(tuple(_PREFIXES)) for name in tensors)


def read_official(state: Mapping[str, Tensor], *, where: str) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Translate the authors' generator state dict.

    Args:
        state: the authors' `checkpoint["generator"]`.
        where: the file's name, for error messages.

    Returns:
        The configuration inferred from shapes, and the weights under this project's names.

    Raises:
        InputError: a name is not of this format, or copies of a shared attention differ.
    """
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()):
        raise InputError(f"{where}: its 'generator' must be a mapping of names to tensors")
    if is_baseline(state):
        return read_baseline(state, where=where)
    weights: dict[str, Tensor] = {}
    for theirs, tensor in state.items():
        ours = _rename(theirs, where)
        if ".time_attention." in ours:  # shared with the encoder
            ours = ours.replace("up_stages.", "down_stages.")
        if ours.endswith("_mamba.merge.weight") and tensor.dim() == 3:  # a transposed convolution of width 1
            tensor = tensor.squeeze(-1).t()
        if ours in weights and not torch.equal(weights[ours], tensor):
            raise InputError(f"{where}: '{theirs}' differs from the other copies of its shared attention")
        weights[ours] = tensor
    try:
        channels = weights["encoder.widen.0.weight"].shape[0]
    except (KeyError, IndexError):
        raise InputError(f"{where}: holds no 'dense_encoder.dense_conv_1.0.weight'") from None
    blocks = {name.split(".")[2] for name in weights if name.startswith("middle.blocks.")}
    values = {"channels": channels, "blocks": max(len(blocks), 1)}
    return build(ModelConfig, values, where=where), weights


def _rename(theirs: str, where: str) -> str:
    for prefix, ours in _PREFIXES.items():
        if theirs.startswith(prefix):
            name = ours + theirs.removeprefix(prefix)
            for part, replacement in _PARTS.items():
                name = name.replace(part, replacement)
            return name
    raise InputError(f"{where}: '{theirs}' is not a name of the published RWSA-MambaUNet format")
