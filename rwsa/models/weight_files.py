"""Files of weights as others save them: what a file is by its content, and its tensors by plain names."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rwsa.errors import InputError
from rwsa.names import as_utf8

# Keys under which checkpoints keep a model's weights; `generator` is the paper's authors'.
_NESTED = ("generator", "state_dict", "model_state_dict", "model", "net", "network", "ema", "weights")
# Prefixes of names: DDP, torch.compile, and the attributes under which training frameworks keep a model.
_PREFIXES = ("module.", "_orig_mod.", "generator.", "model.", "net.", "network.")
_COMPILED = re.compile(r"(?<=\.)_orig_mod\.")
_GLOBAL = re.compile(r"GLOBAL ([\w.]{1,80})")
_DISCRIMINATOR = ("slope", "convolutions.0.")
_FETCH = "fetch it again"
_SHOWN_CHARACTERS = 80


def read_tensors(path: Path, *, where: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the weights in a file, whatever its suffix.

    Prefixes of DDP and torch.compile are removed from names, and so is what Lightning and others wrap around
    the weights.

    Args:
        path: safetensors, or a checkpoint of torch with plain tensors.
        where: the file's name, for error messages.

    Returns:
        The tensors by name, and the metadata of safetensors.

    Raises:
        InputError: the file is empty, damaged, something else, or holds code.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror}); check its permissions") from error
    _refuse_other_files(head, where)
    if path.suffix == ".safetensors" or _is_safetensors(head):
        return _read_safetensors(path, head, size, where)
    return plain_names(_tensors_in(_unpickled(path, where), where), where=where), {}


def _refuse_other_files(head: bytes, where: str) -> None:
    start = head.lstrip().lower()
    if not head:
        raise InputError(f"{where}: is empty; {_FETCH}")
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"{where}: is a pointer of Git LFS, not the weights; run: git lfs pull")
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise InputError(f"{where}: is a web page, not weights: the download failed; {_FETCH}")


def _is_safetensors(head: bytes) -> bool:
    """Whether a file starts like safetensors: the header's length in eight bytes, then the header's brace."""
    return head[8:9] == b"{"


def _read_safetensors(
    path: Path, head: bytes, size: int, where: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not _is_safetensors(head) and head.startswith((b"PK", b"\x80")):
        raise InputError(f"{where}: is a checkpoint of torch, not safetensors; rename it to .pth")
    if int.from_bytes(head[:8], "little") > size - 8:
        raise InputError(f"{where}: not a readable safetensors file (its header is cut off); {_FETCH}")
    try:
        with utf8_path(path) as readable, safe_open(readable, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())[: 2 * _SHOWN_CHARACTERS]
        raise InputError(f"{where}: not a readable safetensors file ({reason}); {_FETCH}") from error
    return plain_names(tensors, where=where), metadata


@contextmanager
def utf8_path(path: Path) -> Iterator[Path]:
    """The path itself, or a link to it if its bytes are not UTF-8: safetensors cannot open such a path."""
    if as_utf8(str(path)) == str(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="rwsa-") as folder:
        link = Path(folder, "weights")
        link.symlink_to(path.absolute())
        yield link


def _unpickled(path: Path, where: str) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise any exception
        found = _GLOBAL.search(str(error))
        code = f" ({found[1]})" if found else ""
        raise InputError(
            f"{where}: neither safetensors nor a checkpoint of plain tensors; it is damaged, or holds"
            f" code{code}, which is never run; save its weights alone, with safetensors.torch.save_file"
        ) from error


def _tensors_in(state: Any, where: str) -> dict[str, Tensor]:
    """The weights in a checkpoint: itself, or below one of the usual keys."""
    for _ in range(3):
        if not isinstance(state, Mapping):
            break
        if state and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
            return _dense(state, where)
        nested = next((key for key in _NESTED if isinstance(state.get(key), Mapping)), None)
        if nested is None:
            if isinstance(state.get("discriminator"), Mapping):
                raise _discriminator(where)
            break
        state = state[nested]
    raise InputError(
        f"{where}: not the published format, which is {{'generator': weights}}, nor plain weights by name"
    )


def _dense(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta:
            raise InputError(
                f"{where}: '{name[:_SHOWN_CHARACTERS]}' is a sparse, nested or meta tensor; save it dense"
            )
    return dict(tensors)


def plain_names(tensors: Mapping[str, Tensor], *, where: str) -> dict[str, Tensor]:
    """Tensors by the names that the network itself gives them.

    Raises:
        InputError: they are those of a discriminator or an optimiser.
    """
    named = {_COMPILED.sub("", name): tensor for name, tensor in tensors.items()}
    while prefix := next((p for p in _PREFIXES if any(name.startswith(p) for name in named)), None):
        named = {name.removeprefix(prefix): t for name, t in named.items() if name.startswith(prefix)}
    if any("optimiser." in name for name in named):
        raise InputError(f"{where}: is the optimisers' state; give generator.safetensors, beside it")
    if any(name.startswith(_DISCRIMINATOR) for name in named):
        raise _discriminator(where)
    return named


def _discriminator(where: str) -> InputError:
    return InputError(f"{where}: holds a discriminator, which does not enhance; give the generator's weights")


def stored_config(metadata: Mapping[str, str], *, where: str) -> dict[str, Any] | None:
    """The model configuration in the metadata of safetensors; None if there is none.

    Raises:
        InputError: it is not a mapping.
    """
    if "config" not in metadata:
        return None
    try:
        return dict(json.loads(metadata["config"]))
    except (ValueError, TypeError, RecursionError) as error:
        reason = str(error)[:_SHOWN_CHARACTERS]
        raise InputError(f"{where}: its model configuration is not readable ({reason})") from error
