"""Loading and saving weights: safetensors with the configuration as metadata, or published checkpoints.

Nothing is unpickled as code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from rwsa.config import as_mapping, build
from rwsa.errors import InputError
from rwsa.files import (
    WRITE_REMEDY,
    StoragePath,
    atomic_write,
    is_file,
    is_remote,
    local_copy,
    location,
)
from rwsa.models.build import Network, build_model
from rwsa.models.config import SIZES, ModelConfig
from rwsa.models.official import is_official, read_official
from rwsa.models.weight_files import read_tensors, stored_config
from rwsa.shipped import shipped_file, shipped_names

_GIVE_OTHERS = "give other weights, such as an earlier checkpoint's"
_SHOWN_CHARACTERS = 100


def load_model(source: str | StoragePath | None = None, *, device: str | torch.device = "cpu") -> Network:
    """Load a trained model, in eval mode.

    Args:
        source: path or URL of a file that `save_model` wrote, of a checkpoint in the paper's published
            format or that of its baselines, or of plain weights of any, also as DDP, torch.compile or
            Lightning save them; or the name of weights that come with the package (`rwsa.shipped`), whose
            default is loaded if it is None.
        device: where to put the model.

    Raises:
        InputError: the file is missing, has neither format, or its weights do not fit or are not finite; or
            `source` is the name of a size, which has no trained weights.
    """
    path = weights_file(source)
    with local_copy(path) as file:
        tensors, metadata = read_tensors(file, where=str(path))
    config, weights = _described(tensors, metadata, where=str(path))
    model = build_model(config)
    load_weights(model, _without_copies(model, weights), where=str(path))
    check_finite(weights_of(model), where=str(path))
    return model.to(device).eval()


def _described(
    tensors: dict[str, Tensor], metadata: Mapping[str, str], *, where: str
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The configuration and weights of a file's tensors, which are about as many as its model's."""
    values = stored_config(metadata, where=where)
    if values is None and is_official(tensors):
        config, tensors = read_official(tensors, where=where)
    elif values is None:
        size = _fitting_size(tensors)
        if size is None:
            raise InputError(
                f"{where}: holds no model configuration, and its tensors ({_shown(sorted(tensors))}) are"
                f" those of none of the sizes {', '.join(SIZES)}; give weights that training wrote, or"
                " published ones"
            )
        config = SIZES[size]
    else:
        config = build(ModelConfig, values, where=where)
    # Before the model is built: a configuration from elsewhere may ask for more memory than there is.
    few = sum(tensor.numel() for tensor in tensors.values()) < _fewest_weights(config)
    if _blocks_in(tensors) != config.blocks or few:
        raise InputError(
            f"{where}: its configuration ({config.summary}) is not that of its weights{_fitting(tensors)};"
            f" {_GIVE_OTHERS}"
        )
    return config, tensors


def _fewest_weights(config: ModelConfig) -> int:
    """The largest weights of one stage's blocks at width C; a model has more."""
    channels, inner = config.channels, round(config.expand * config.channels)
    match config.mixer:
        case "mamba":
            of_axis = 2 * inner * (3 * channels + 3 * config.d_state + config.d_conv)
        case "conformer":
            of_axis = 4 * channels * inner
        case "mlstm":
            of_axis = 2 * inner * (3 * channels + config.d_conv)
        case "lstm":
            of_axis = 8 * inner * (channels + inner)
        case "none":
            of_axis = 2 * channels * channels
    return 2 * config.blocks * of_axis


def _without_copies(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights without a `state_dict`'s equal copies of shared tensors, which have several names there."""
    own = weights_of(model)
    first = {tensor.data_ptr(): name for name, tensor in own.items()}
    copies = {
        name: first[tensor.data_ptr()] for name, tensor in model.state_dict().items() if name not in own
    }
    return {
        name: tensor
        for name, tensor in weights.items()
        if name not in copies or copies[name] not in weights or not torch.equal(tensor, weights[copies[name]])
    }


def _fitting_size(weights: Mapping[str, Tensor]) -> str | None:
    """The named size whose tensors have these names and shapes."""
    first = weights.get("encoder.widen.0.weight")
    for name, config in SIZES.items():
        likely = first is not None and first.dim() > 0 and len(first) == config.channels
        if likely and _blocks_in(weights) == config.blocks:
            model = build_model(config)
            own, named = weights_of(model), model.state_dict()
            if own.keys() <= weights.keys() <= named.keys() and all(
                tensor.shape == named[name].shape for name, tensor in weights.items()
            ):
                return name
    return None


def _blocks_in(weights: Mapping[str, Tensor]) -> int:
    """The number of blocks per stage, by the names of tensors."""
    blocks = (re.match(r"(?:middle\.)?blocks\.(\d+)\.", name) for name in weights)
    return len({match[1] for match in blocks if match})


def weights_file(source: str | StoragePath | None = None) -> StoragePath:
    """The location of a weights file that exists; see `load_model`.

    Raises:
        InputError: there is no such file, or `source` is the name of a model size.
    """
    if source is None:
        return shipped_file()
    path = location(source)
    if is_file(path):
        return path
    name = str(source)
    if name in shipped_names():
        return shipped_file(name)
    if name in SIZES:
        raise InputError(
            f"'{name}' is a model size, not a weights file, and an untrained model does not enhance speech;"
            " give trained weights, or request random ones explicitly:"
            f" rwsa enhance --untrained {name}, rwsa.models.build_model('{name}')"
        )
    if not is_remote(path) and path.is_dir():
        raise InputError(f"{path}: is a folder; give a weights file in it, such as generator.safetensors")
    names = "" if path.suffix else f", or the name of shipped ones ({', '.join(shipped_names()) or 'none'})"
    raise InputError(f"{path}: no such file; give weights that training wrote, a published checkpoint{names}")


def save_model(path: StoragePath, model: Network, about: Mapping[str, Any] | None = None) -> None:
    """Write weights and configuration atomically.

    Args:
        path: a `.safetensors` file.
        model: weights of shared modules are stored once.
        about: further metadata (steps, data, commit), stored as JSON.
    """
    metadata = {"config": json.dumps(as_mapping(model.config)), "about": json.dumps(dict(about or {}))}
    write_tensors(path, weights_of(model), metadata)


def write_tensors(
    path: StoragePath, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as safetensors, atomically.

    Raises:
        InputError: the folder or store is not writable, or the disk is full.
    """
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata=None if metadata is None else dict(metadata))
        except SafetensorError as error:  # wraps the operating system's error
            raise InputError(f"{path}: cannot be written ({error}); {WRITE_REMEDY}") from error


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; a shared tensor is listed once, under its first name."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: tensor.detach() for name, tensor in named.items()}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Copy weights into a model; names and shapes must match exactly.

    Raises:
        InputError: naming missing, unexpected and misshapen tensors; the model is then unchanged.
    """
    own = weights_of(model)
    _check_fit(model, weights, where=where)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])


def _check_fit(model: nn.Module, weights: Mapping[str, Tensor], *, where: str) -> None:
    own = weights_of(model)
    both = sorted(own.keys() & weights.keys())
    kinds = {
        "missing": sorted(own.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - own.keys()),
        "": [
            f"{name} is {list(weights[name].shape)} where {list(own[name].shape)} is expected"
            for name in both
            if weights[name].shape != own[name].shape
        ],
        "not of real numbers:": [
            name for name in both if own[name].is_floating_point() and not weights[name].is_floating_point()
        ],
    }
    problems = [f"{kind} {_shown(items)}".lstrip() for kind, items in kinds.items() if items]
    if not problems:
        return
    hint = _fitting(weights) if any(kinds[kind] for kind in ("missing", "unexpected", "")) else ""
    raise InputError(f"{where}: weights do not fit the model: {'; '.join(problems)}{hint}")


def _fitting(weights: Mapping[str, Tensor]) -> str:
    """The end of a message that names the size that the weights fit, if any."""
    size = _fitting_size(weights)
    return "" if size is None else f"; they fit the size {size}"


def _shown(items: Sequence[str]) -> str:
    """The first two of many."""
    more = f" and {len(items) - 2} more" if len(items) > 2 else ""
    return ", ".join(item[:_SHOWN_CHARACTERS] for item in items[:2]) + more


def check_finite(weights: Mapping[str, Tensor], *, where: str) -> None:
    """Refuse weights with NaN or infinity, whose output would be noise at full scale.

    Raises:
        InputError: naming the first such tensor.
    """
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise InputError(
                f"{where}: '{name}' holds values that are not finite (NaN or infinity): its training has"
                f" diverged; {_GIVE_OTHERS}"
            )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a file that `save_model` wrote.

    Raises:
        InputError: the file is missing, damaged, or was not written by this project.
    """
    tensors, metadata = read_tensors(path, where=str(path))
    if stored_config(metadata, where=str(path)) is None:
        raise InputError(f"{path}: holds no model configuration; it was not written by this project")
    return tensors
