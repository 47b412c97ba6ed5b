"""Environment variables in configurations: `${NAME}` in fields that hold paths, and only named variables."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, TypeVar, Union

from rwsa.errors import InputError

# The variables that a configuration may use, besides RWSA_*: folders, and nothing secret.
FOLDERS = frozenset(
    {
        *("HOME", "USER", "TMPDIR", "SCRATCH", "WORK", "PROJECT", "SLURM_TMPDIR", "SLURM_SUBMIT_DIR", "PWD"),
        *("DEMAND_ROOT", "DNS2020_ROOT", "EARS_ROOT", "EARS_WHAM_V2_ROOT", "ESC50_ROOT", "LIBRISPEECH_ROOT"),
        *("RIRS_NOISES_ROOT", "VB_DEMANDEX_ROOT", "VCTK_ROOT", "WHAM_48K_ROOT", "WHAM_ROOT"),
    }
)
_PREFIX = "RWSA_"
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}\n\0]*))?\}")
# A variable while YAML is parsed: `{` and `}` have a meaning in YAML's lists and mappings.
_HIDDEN = re.compile("\ue000((?:[0-9a-f]{2})*)\ue001")
_PATH = object()

# The type of a field that holds a path or an address.
PathText = Annotated[str, _PATH]
# Keys from the outermost; `*` stands for any key or index.
Location = tuple[str, ...]
T = TypeVar("T")


def hide_variables(text: str) -> str:
    """YAML text in which every variable is hidden from the parser; `replace_variables` shows them again."""
    return _VARIABLE.sub(lambda match: f"\ue000{match.group().encode().hex()}\ue001", text)


def show_variables(value: T) -> T:
    """Parsed values with their variables as written."""
    if isinstance(value, str):
        return _HIDDEN.sub(lambda match: _shown(match.group(1)), value)  # type: ignore[return-value]
    if isinstance(value, Mapping):
        return {show_variables(key): show_variables(item) for key, item in value.items()}  # type: ignore[return-value]
    if isinstance(value, list):
        return [show_variables(item) for item in value]  # type: ignore[return-value]
    return value


def _shown(digits: str) -> str:
    # The text itself may hold what looks like a hidden variable, of any bytes.
    return bytes.fromhex(digits).decode(errors="replace")


def replace_variables(values: Mapping[str, Any], paths: Iterable[Location], *, where: str) -> dict[str, Any]:
    """Values with `${NAME}` and `${NAME:-default}` replaced in the fields that hold paths.

    Args:
        values: nested plain values.
        paths: the locations of such fields, see `path_fields`.
        where: name of the source for error messages.

    Raises:
        InputError: a variable is unset, is not one of `RWSA_*` and `FOLDERS`, or stands elsewhere.
    """
    paths = tuple(paths)

    def replaced(value: Any, at: Location) -> Any:
        if isinstance(value, Mapping):
            for key in value:
                if isinstance(key, str) and _VARIABLE.search(key):
                    raise _misplaced(where, (*at, key), key)
            return {key: replaced(item, (*at, str(key))) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [replaced(item, (*at, str(index))) for index, item in enumerate(value)]
        if not isinstance(value, str) or not _VARIABLE.search(value):
            return value
        if not any(_matches(path, at) for path in paths):
            raise _misplaced(where, at, value)
        text = _VARIABLE.sub(lambda match: _value(match, f"{where}: '{'.'.join(at)}'"), value)
        return text or None

    return dict(replaced(values, ()))


def _matches(path: Location, at: Location) -> bool:
    return len(path) == len(at) and all(a in ("*", b) for a, b in zip(path, at, strict=True))


def _misplaced(where: str, at: Location, text: str) -> InputError:
    match = _VARIABLE.search(text)
    name = match.group(1) if match else ""
    return InputError(
        f"{where}: '{'.'.join(at)}' uses ${{{name}}}, but variables are replaced only in paths;"
        " write the value itself"
    )


def _value(match: re.Match[str], where: str) -> str:
    name, default = match.group(1), match.group(2)
    if not name.startswith(_PREFIX) and name not in FOLDERS:
        raise InputError(
            f"{where} uses ${{{name}}}, which may hold a secret; only {_PREFIX}* and the folders listed in"
            f" datasets/README.md are replaced: export {_PREFIX}{name}=… and use that"
        )
    value = os.environ.get(name, default)
    if value is None:
        raise InputError(f"{where} uses ${{{name}}}, which is not set; export {name}=…")
    return value


@functools.cache
def path_fields(cls: type) -> tuple[Location, ...]:
    """The fields of type `PathText` in a configuration class, with those of nested classes."""
    return tuple(_fields_of(cls, ()))


def _fields_of(cls: type, at: Location) -> Iterator[Location]:
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        yield from _paths_in(hints[field.name], (*at, field.name))


def _paths_in(hint: Any, at: Location) -> Iterator[Location]:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
        if _PATH in arguments[1:]:
            yield at
        else:
            yield from _paths_in(arguments[0], at)
    elif dataclasses.is_dataclass(hint):
        yield from _fields_of(typing.cast(type, hint), at)
    elif typing.get_origin(hint) in (Union, types.UnionType):
        for each in arguments:
            yield from _paths_in(each, at)
    elif typing.get_origin(hint) in (tuple, dict, list):
        for each in arguments:
            yield from _paths_in(each, (*at, "*"))
