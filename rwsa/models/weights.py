"""Loading and saving weights: safetensors with the configuration as metadata, or published checkpoints.

Nothing is unpickled as code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rwsa.config import as_mapping, build
from rwsa.errors import InputError
from rwsa.files import StoragePath, atomic_write, is_file, is_remote, local_copy, location
from rwsa.models.build import Network, build_model
from rwsa.models.config import SIZES, ModelConfig
from rwsa.models.official import is_official, read_official


def load_model(source: str | StoragePath, *, device: str | torch.device = "cpu") -> Network:
    """Load a trained model, in eval mode.

    Args:
        source: path or URL of a `.safetensors` file that `save_model` wrote, or of a checkpoint in the
            paper's published format.
        device: where to put the model.

    Raises:
        InputError: the file is missing, has neither format, or its weights do not fit; or `source` is the
            name of a size, which has no trained weights.
    """
    path = weights_file(source)
    with local_copy(path) as file:
        config, weights = _read_safetensors(file) if path.suffix == ".safetensors" else _read_published(file)
    model = build_model(config)
    load_weights(model, weights, where=str(path))
    return model.to(device).eval()


def weights_file(source: str | StoragePath) -> StoragePath:
    """The location of a weights file that exists.

    Raises:
        InputError: there is no such file, or `source` is the name of a model size.
    """
    path = location(source)
    if is_file(path):
        return path
    name = str(source)
    if name in SIZES:
        raise InputError(
            f"'{name}' is a model size, not a weights file, and an untrained model does not enhance speech;"
            " give trained weights, or request random ones explicitly:"
            f" rwsa enhance --untrained {name}, rwsa.models.build_model('{name}')"
        )
    if not is_remote(path) and path.is_dir():
        raise InputError(f"{path}: is a folder; give a weights file in it, such as generator.safetensors")
    sizes = "" if path.suffix else f" (model sizes are {', '.join(SIZES)})"
    raise InputError(
        f"{path}: no such file; give weights that training wrote, or a published checkpoint{sizes}"
    )


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
            raise InputError(
                f"{path}: cannot be written ({error}); choose a folder that is writable and has space"
            ) from error


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; a shared tensor is listed once, under its first name."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: tensor.detach() for name, tensor in named.items()}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Copy weights into a model; names and shapes must match exactly.

    Raises:
        InputError: listing missing, unexpected and misshapen tensors; the model is then unchanged.
    """
    own = weights_of(model)
    problems = [f"missing {name}" for name in own.keys() - weights.keys()]
    problems += [f"unexpected {name}" for name in weights.keys() - own.keys()]
    problems += [
        f"{name} is {list(weights[name].shape)} where {list(own[name].shape)} is expected"
        for name in own.keys() & weights.keys()
        if weights[name].shape != own[name].shape
    ]
    if problems:
        raise InputError(f"{where}: weights do not fit the model: {'; '.join(sorted(problems))}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a file that `save_model` wrote.

    Raises:
        InputError: the file is missing, damaged, or was not written by this project.
    """
    return _read_safetensors(path)[1]


def _read_safetensors(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error
    if "config" not in metadata:
        raise InputError(f"{path}: holds no model configuration; it was not written by this project")
    try:
        values = dict(json.loads(metadata["config"]))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: its model configuration is not readable ({error})") from error
    return build(ModelConfig, values, where=str(path)), weights


def _read_published(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise any exception
        raise InputError(
            f"{path}: neither safetensors nor a checkpoint of plain tensors; it is damaged, or holds code,"
            " which is never run"
        ) from error
    if not isinstance(state, Mapping) or not is_official(state):
        raise InputError(f"{path}: not the published format, which is {{'generator': weights}}")
    return read_official(state["generator"], where=str(path))
