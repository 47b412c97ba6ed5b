"""Enhance files and folders: structure kept, every output whole, a bad file reported and passed over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from rwsa.audio import find_audio, read_audio, write_audio
from rwsa.enhancement import enhance
from rwsa.errors import InputError
from rwsa.models import Network, load_model


def enhance_files(
    inputs: Sequence[Path],
    out: Path,
    *,
    weights: str | Path,
    device: str = "auto",
    crossfade: float = 0.1,
    batch_size: int = 4,
    strict: bool = False,
) -> list[str]:
    """Enhance every audio file among `inputs`, which are files or folders, into the folder `out`.

    Outputs have the name, format, rate, channels and length of their inputs.

    Returns:
        What went wrong, one line for each file passed over.

    Raises:
        InputError: an input is missing, a folder holds no audio, two inputs would be written to one
            file or over an input, the weights or the device cannot be used, or `out` cannot be
            written; with `strict` also for the first bad file.
    """
    targets = _targets(inputs, out)
    model = load_model(weights, device=_device(device))
    failures = []
    with tqdm(total=len(targets), unit="file", desc="enhancing", disable=None) as bar:
        for source, target in targets.items():
            try:
                _enhance_file(source, target, model, crossfade, batch_size)
            except InputError as error:
                if strict or not out.is_dir():
                    raise
                failures.append(str(error))
            bar.update()
    return failures


def _targets(inputs: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Where each source goes: a file under its name, a folder's files under their paths inside it."""
    targets: dict[Path, Path] = {}
    for given in inputs:
        if given.is_dir():
            targets |= {path: out / path.relative_to(given) for path in find_audio(given)}
        elif given.is_file():
            targets[given] = out / given.name
        else:
            raise InputError(f"{given}: no such file or folder")
    taken: dict[Path, Path] = {}
    for source, target in targets.items():
        if target in taken:
            raise InputError(f"{source} and {taken[target]} would both become {target}; enhance them apart")
        if target.resolve() == source.resolve():
            raise InputError(f"{source}: would be overwritten; choose another --out than its folder")
        taken[target] = source
    return targets


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: cannot be used ({str(error).splitlines()[0]})") from error
    return device


def _enhance_file(source: Path, target: Path, model: Network, crossfade: float, batch_size: int) -> None:
    wav, rate = read_audio(source)
    try:
        enhanced = enhance(wav, rate, model, crossfade=crossfade, batch_size=batch_size)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    write_audio(target, enhanced, rate)
