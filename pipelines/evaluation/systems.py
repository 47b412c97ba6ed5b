"""The systems in an evaluation: models by their weights, and folders of ready-made outputs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.evaluation.clip_scores import NOISY
from pipelines.evaluation.clips import EvaluationClip, EvaluationSet
from rwsa.audio_folders import find_audio
from rwsa.errors import InputError
from rwsa.files import StoragePath, absolute_location, location, sha256_of
from rwsa.models import ModelConfig, Network, load_model, weights_file
from rwsa.models.cost import cost
from rwsa.shipped import shipped_names

# The row of a single model without a name.
ENHANCED = "enhanced"
_NAME = re.compile(r"\w[\w .-]*")


@dataclass(frozen=True, kw_only=True)
class Model:
    """Weights as a row of the table.

    Attributes:
        name: of the row.
        configuration: shared by runs that differ only in their seed; else the name.
        parameters: their number.
        giga_flops: of one segment, counted as in the paper.
    """

    name: str
    configuration: str
    weights: str
    sha256: str
    config: ModelConfig
    parameters: int
    giga_flops: float


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """A folder of another system's ready-made outputs as a row of the table."""

    name: str
    folder: str

    @property
    def configuration(self) -> str:
        return self.name


System = Model | Outputs


@dataclass(frozen=True, kw_only=True)
class MatchedOutputs:
    """The output file of each clip of one corpus.

    Attributes:
        paths: clip id -> file.
        faults: clip id -> why it has no file.
        extra: files that match no clip of the corpus; None (unknown) if not all clips are scored.
    """

    paths: Mapping[str, Path]
    faults: Mapping[str, str]
    extra: tuple[str, ...] | None


def read_systems(
    weights: Sequence[str | StoragePath], outputs: Sequence[str]
) -> tuple[tuple[System, ...], dict[str, Network]]:
    """The systems, and the network of each model.

    Args:
        weights: `FILE` or `NAME=FILE`, where FILE may be the name of shipped weights (`rwsa.shipped`), which
            then also names them. A name given to several files stands for runs of one configuration that
            differ by seed. A single file without a name is named `enhanced`, several by the part of their
            paths that differs.
        outputs: `NAME=FOLDER`.

    Raises:
        InputError: a file or folder is missing or cannot be used, or a name is invalid, `noisy`, or
            taken.
    """
    named = [(name, weights_file(path)) for name, path in _named_weights(weights)]
    networks: dict[str, Network] = {}
    systems: list[System] = []
    for name, (configuration, path) in zip(_row_names(named), named, strict=True):
        networks[name] = load_model(path)
        systems.append(_model(name, configuration, path, networks[name]))
    for entry in outputs:
        name, separator, folder = entry.partition("=")
        if not separator or not Path(folder).is_dir():
            raise InputError(f"--system {entry}: give NAME=FOLDER, where FOLDER holds a system's outputs")
        systems.append(Outputs(name=name, folder=folder))
    _check_names([system.name for system in systems])
    return tuple(systems), networks


def read_trained_on(
    entries: Sequence[str], systems: Sequence[System], corpora: Mapping[str, Path]
) -> dict[str, str]:
    """Configuration -> name of the corpus that it was trained on.

    Args:
        entries: `NAME=CORPUS`, with the corpus's name or card.
        systems: in the evaluation.
        corpora: name -> card, in the evaluation.

    Raises:
        InputError: there is no such system or corpus in the evaluation, or a system has two corpora.
    """
    configurations = list(dict.fromkeys(system.configuration for system in systems))
    found: dict[str, str] = {}
    for entry in entries:
        name, _, corpus = entry.partition("=")
        if name not in configurations:
            raise InputError(f"--trained-on {entry}: no system is named '{name}', only {configurations}")
        by_card = [one for one, card in corpora.items() if card == Path(corpus)]
        if corpus not in corpora and not by_card:
            raise InputError(f"--trained-on {entry}: '{corpus}' is not among the --corpora {list(corpora)}")
        trained_on = corpus if corpus in corpora else by_card[0]
        if found.setdefault(name, trained_on) != trained_on:
            raise InputError(f"--trained-on {entry}: '{name}' was trained on {found[name]}; give one corpus")
    return found


def _named_weights(weights: Sequence[str | StoragePath]) -> list[tuple[str, StoragePath]]:
    """(name, path), with a generated name where none is given."""
    given: list[tuple[str | None, StoragePath]] = []
    for entry in weights:
        name, separator, path = str(entry).partition("=")
        # A path may have a '=' in it.
        unnamed = not separator or not isinstance(entry, str) or Path(entry).exists()
        shipped = str(entry) if str(entry) in shipped_names() else None
        given.append((shipped, location(entry)) if unnamed else (name, location(path)))
    nameless = [path for name, path in given if name is None]
    if len(given) == 1:
        return [(name or ENHANCED, path) for name, path in given]
    generated = iter(_distinct_names(nameless))
    return [(next(generated) if name is None else name, path) for name, path in given]


def _distinct_names(paths: Sequence[StoragePath]) -> list[str]:
    """Names of the files, or of their folders, since all runs give their weights the same name."""
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    folders = [Path(absolute_location(str(path))).parent.name for path in paths]
    if len(set(folders)) == len(folders):
        return folders
    raise InputError("--weights: neither files nor folders have names that differ; name each, NAME=FILE")


def _row_names(named: Sequence[tuple[str, StoragePath]]) -> list[str]:
    """The names, numbered where several weights share one: `NAME 1`, `NAME 2`, …"""
    counts, seen = Counter(name for name, _ in named), Counter[str]()
    names = []
    for name, _ in named:
        seen[name] += 1
        names.append(name if counts[name] == 1 else f"{name} {seen[name]}")
    return names


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not _NAME.fullmatch(name) or name == NOISY:
            raise InputError(
                f"'{name}' cannot name a system ('{NOISY}' is the input's row); use letters, digits, ' ',"
                " '-', '_' and '.'"
            )
        if names.count(name) > 1:
            raise InputError(f"two systems are named '{name}'; give each its own name, NAME=…")


def _model(name: str, configuration: str, path: StoragePath, network: Network) -> Model:
    return Model(
        name=name,
        configuration=configuration,
        weights=str(path),
        sha256=sha256_of(path),
        config=network.config,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        giga_flops=cost(network).published / 1e9,
    )


def match_outputs(system: Outputs, one: EvaluationSet, *, several_corpora: bool) -> MatchedOutputs:
    """Find the file of each clip.

    A file matches the clip whose id (the noisy file's path of a pair, the example's name of a mixture) ends
    in the file's path below the folder, without its extension.

    Args:
        several_corpora: whether the outputs of each corpus are in a subfolder with its name.

    Raises:
        InputError: the folder has no such subfolder, or no file in it belongs to any clip.
    """
    folder = Path(system.folder)
    if several_corpora:
        folder = folder / one.name
        if not folder.is_dir():
            raise InputError(
                f"--system {system.name}={system.folder}: has no folder '{one.name}'; with several corpora,"
                " put the outputs for each into a subfolder with its name"
            )
    files: dict[tuple[str, ...], list[Path]] = {}
    for path in find_audio(folder):
        files.setdefault(path.relative_to(folder).with_suffix("").parts, []).append(path)
    ends = {clip.clip_id: [end for end in _ends(clip) if end in files] for clip in one.clips}
    claims = Counter(end for found in ends.values() for end in found)
    if not claims:
        raise InputError(
            f"--system {system.name}={system.folder}: no file of {folder} is named as a clip of {one.name},"
            f" such as {one.clips[0].clip_id.rpartition('/')[2]}"
        )
    paths: dict[str, Path] = {}
    faults: dict[str, str] = {}
    for clip_id, found in ends.items():
        of_clip = [path for end in found for path in files[end]]
        if not of_clip:
            faults[clip_id] = f"has no file in {folder}"
        elif len(of_clip) > 1:
            faults[clip_id] = f"has several files, {' and '.join(map(str, of_clip))}; keep one"
        elif claims[found[0]] > 1:
            faults[clip_id] = f"{of_clip[0]} is named as several clips; use the same subfolders as the clips"
        else:
            paths[clip_id] = of_clip[0]
    extra = sorted(str(path) for end, of_end in files.items() if end not in claims for path in of_end)
    return MatchedOutputs(paths=paths, faults=faults, extra=tuple(extra) if one.complete else None)


def _ends(clip: EvaluationClip) -> list[tuple[str, ...]]:
    parts = tuple(clip.clip_id.split("/"))[1:]
    return [parts[at:] for at in range(len(parts))]
