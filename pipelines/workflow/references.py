"""References in a workflow: `${PARAM}`, `${VARIABLE}` of `foreach`, and `${STEP.OUTPUT}`."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rwsa.errors import InputError

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
# The values of a step's output, one per instance that agrees with the step that asks.
Outputs = Callable[[str, str], list[Any]]


def references_in(value: Any) -> Iterator[tuple[str, str | None]]:
    """(name, output) of every reference in nested lists and mappings; output is None for a plain name."""
    if isinstance(value, str):
        for text in _REFERENCE.findall(value):
            name, dot, output = text.partition(".")
            yield name, output if dot else None
    elif isinstance(value, Mapping):
        for child in itertools.chain(value.keys(), value.values()):
            yield from references_in(child)
    elif isinstance(value, list | tuple):
        for child in value:
            yield from references_in(child)


def resolve(value: Any, names: Mapping[str, Any], outputs: Outputs, *, where: str) -> Any:
    """A value with its references replaced.

    A text that is one reference becomes the value itself. A text in a list that refers to a step with
    several instances becomes several texts.

    Raises:
        InputError: a name is unknown, or a reference has several values where one is needed.
    """
    if isinstance(value, Mapping):
        return {
            _one(_texts(key, names, outputs, where=where), key, where=where): resolve(
                child, names, outputs, where=f"{where}.{key}"
            )
            for key, child in value.items()
        }
    if isinstance(value, list | tuple):
        return [found for child in value for found in _items(child, names, outputs, where=where)]
    if isinstance(value, str):
        return _one(_texts(value, names, outputs, where=where), value, where=where)
    return value


def _items(value: Any, names: Mapping[str, Any], outputs: Outputs, *, where: str) -> list[Any]:
    if not isinstance(value, str):
        return [resolve(value, names, outputs, where=where)]
    found = _texts(value, names, outputs, where=where)
    # A parameter that is a list gives its items.
    return [item for one in found for item in (one if isinstance(one, list | tuple) else [one])]


def _texts(text: str, names: Mapping[str, Any], outputs: Outputs, *, where: str) -> list[Any]:
    """All values of a text: one, or one per instance of the step that it refers to."""
    values: dict[str, list[Any]] = {}
    for reference in dict.fromkeys(_REFERENCE.findall(text)):
        name, dot, output = reference.partition(".")
        if dot:
            values[reference] = outputs(name, output)
        elif name in names:
            values[reference] = [names[name]]
        else:
            raise InputError(
                f"{where}: ${{{reference}}} is neither a parameter nor a variable{nearest(name, names)}"
            )
    lengths = {len(found) for found in values.values() if len(found) != 1}
    if len(lengths) > 1:
        raise InputError(f"{where}: '{text}' refers to steps with different numbers of instances")
    count = lengths.pop() if lengths else 1
    return [
        _filled(
            text, {name: found[at if len(found) > 1 else 0] for name, found in values.items()}, where=where
        )
        for at in range(count)
    ]


def _filled(text: str, values: Mapping[str, Any], *, where: str) -> Any:
    if whole := _REFERENCE.fullmatch(text):
        return values[whole[1]]
    for name, value in values.items():
        if isinstance(value, list | tuple | dict):
            raise InputError(
                f"{where}: ${{{name}}} is a {type(value).__name__} and cannot be part of '{text}'"
            )
    return _REFERENCE.sub(lambda match: str(values[match[1]]), text)


def _one(values: list[Any], text: str, *, where: str) -> Any:
    if len(values) != 1:
        raise InputError(f"{where}: '{text}' stands for {len(values)} values where one is needed; use a list")
    return values[0]


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the valid names."""
    valid = sorted(valid)
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; valid: {', '.join(valid) or 'none'}"
