"""Configuration: frozen dataclasses built from YAML overlays, with errors that name every wrong key."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, dataclass_transform

import pydantic
import pydantic.dataclasses
import yaml

from rwsa.errors import InputError
from rwsa.messages import short_repr
from rwsa.variables import hide_variables, path_fields, replace_variables, show_variables
from rwsa.yaml_text import parse_yaml, read_text

T = TypeVar("T")
_MAX_PROBLEMS = 8  # named in one error


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """Class decorator: a frozen, keyword-only dataclass; it validates types, forbids unknown keys and NaN."""
    return pydantic.dataclasses.dataclass(  # type: ignore[return-value]
        frozen=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
    )(cls)


def build(cls: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Build a `@config` dataclass from plain values.

    Args:
        cls: the configuration class.
        values: nested mappings, as read from YAML.
        where: name of the source for error messages, usually the file.

    Raises:
        InputError: names every unknown, missing or ill-typed key; for an unknown key also the nearest valid
            one.
    """
    try:
        return pydantic.TypeAdapter(cls).validate_python(dict(values))
    except pydantic.ValidationError as error:
        problems = [_explain(cls, problem) for problem in error.errors()[:_MAX_PROBLEMS]]
        if (left_out := error.error_count() - len(problems)) > 0:
            problems.append(f"and {left_out:,} more")
        raise InputError(f"{where}: {'; '.join(problems)}") from None


def build_with_variables(cls: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """`build` from values that a user wrote: `${NAME}` is replaced in fields of type `PathText`.

    Raises:
        InputError: see `build` and `rwsa.variables.replace_variables`.
    """
    return build(cls, replace_variables(values, path_fields(cast(type, cls)), where=where), where=where)


def _explain(cls: type, problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        name = str(problem["loc"][-1])
        names = _names_at(cls, problem["loc"][:-1])
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(names)}"
        return f"unknown key '{key}'; {hint}"
    if problem["type"] in ("missing", "missing_argument"):
        return f"missing key '{key}'"
    if problem["type"] == "value_error":  # raised by a configuration's own __post_init__
        return f"'{key}': {problem['ctx']['error']}" if key else str(problem["ctx"]["error"])
    return f"'{key}' is {short_repr(problem['input'])}: {problem['msg']}"


def _names_at(cls: Any, location: tuple[Any, ...]) -> list[str]:
    """Field names of the dataclass at `location` below `cls`."""
    for part in location:
        if dataclasses.is_dataclass(cls):
            field = cls.__pydantic_fields__.get(part)  # type: ignore[union-attr]
            cls = field.annotation if field is not None else cls
        cls = next((a for a in getattr(cls, "__args__", ()) if dataclasses.is_dataclass(a)), cls)
    return [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; variables such as `${NAME}` stay as they are, see `build_with_variables`.

    Raises:
        InputError: the file is missing, is not YAML, is not a mapping, or see `rwsa.yaml_text.parse_yaml`.
    """
    text = read_text(path)
    try:
        values = _parse(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({_in_one_line(error)})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: must contain a mapping of keys to values, not {type(values).__name__}")
    return values


def _parse(text: str) -> Any:
    return show_variables(parse_yaml(hide_variables(text)))


def _in_one_line(error: yaml.YAMLError) -> str:
    return " ".join(show_variables(str(error)).split())


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `overlay` into `base`: mappings are merged, other values are replaced."""
    merged = dict(base)
    for key, value in overlay.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def setting(text: str) -> dict[str, Any]:
    """Parse `a.b=v` (v in YAML) into `{"a": {"b": v}}`.

    Raises:
        InputError: there is no `=`, a part of the name is empty, or the value is not YAML.
    """
    name, equals, value = text.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        raise InputError(f"--set {text}: must have the form key.subkey=value")
    try:
        return nested(parts, _parse(value))
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or "it cannot be parsed"
        raise InputError(f"--set {text}: the value is not valid YAML ({show_variables(reason)})") from error


def nested(parts: Sequence[str], value: Any) -> dict[str, Any]:
    """`{"a": {"b": value}}` for the parts a and b."""
    for part in reversed(parts):
        value = {part: value}
    return dict(value)


def read_overlays(paths: Iterable[Path]) -> dict[str, Any]:
    """Read YAML files and merge them in order.

    Raises:
        InputError: see `read_yaml`.
    """
    values: dict[str, Any] = {}
    for path in paths:
        values = merge(values, read_yaml(path))
    return values


def with_settings(values: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Apply `a.b=v` settings to values, in order.

    Raises:
        InputError: see `setting`.
    """
    for text in settings:
        values = merge(values, setting(text))
    return dict(values)


def read_config(cls: type[T], paths: Iterable[Path], settings: Iterable[str] = ()) -> T:
    """Build a configuration from YAML overlays and then `a.b=v` settings.

    Raises:
        InputError: see `read_yaml`, `setting` and `build`.
    """
    paths = list(paths)
    values = with_settings(read_overlays(paths), settings)
    where = " + ".join(path.name for path in paths) or "settings"
    return build_with_variables(cls, values, where=where)


def as_mapping(value: Any) -> dict[str, Any]:
    """A configuration as plain nested mappings for YAML or JSON."""
    return json.loads(pydantic.TypeAdapter(type(value)).dump_json(value))


def config_hash(value: Any) -> str:
    """Twelve hexadecimal digits that identify a configuration, independent of the order of its keys."""
    text = json.dumps(as_mapping(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
