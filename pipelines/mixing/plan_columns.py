"""How a plan row's dataclasses become Arrow columns, and back; nothing here knows what a plan holds."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from rwsa.mixing.plans import MixPlan

_LEAVES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def plan_schema() -> pa.Schema:
    """The columns of a plan table, in the order of the fields of `MixPlan`."""
    return pa.schema(list(_type(MixPlan)))


def encoded(plans: Sequence[MixPlan]) -> pa.Table:
    """Plans as a table."""
    return pa.table(
        [_column(hint, _of(plans, name)) for name, hint in _fields(MixPlan)], schema=plan_schema()
    )


def decoded(table: pa.Table) -> list[dict[str, Any]]:
    """The inverse, as plain rows for `rwsa.mixing.plans.from_row`."""
    decode = _decoder(MixPlan)
    return [decode(row) for row in table.to_pylist()]


def _fields(kind: type) -> list[tuple[str, Any]]:
    hints = typing.get_type_hints(kind)
    return [(field.name, hints[field.name]) for field in dataclasses.fields(kind)]


def _of(values: Sequence[Any], name: str) -> list[Any]:
    return [None if value is None else getattr(value, name) for value in values]


def _bare(hint: Any) -> Any:
    """`X` of `X | None` and of `Literal` strings; a column may always be empty."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        others = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return _bare(others[0]) if len(others) == 1 else Any
    if typing.get_origin(hint) is typing.Literal:
        kinds = {type(value) for value in typing.get_args(hint)}
        return kinds.pop() if len(kinds) == 1 else Any
    return hint


def _item(hint: Any) -> Any:
    """`X` of `tuple[X, ...]`; None of anything else."""
    arguments = typing.get_args(hint)
    uniform = typing.get_origin(hint) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis
    return arguments[0] if uniform else None


@functools.cache
def _type(hint: Any) -> pa.DataType:
    hint = _bare(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return pa.struct([(name, _type(kind)) for name, kind in _fields(hint)])
    if (item := _item(hint)) is not None:
        return pa.list_(_type(item))
    return _LEAVES.get(hint, pa.string())


def _column(hint: Any, values: Sequence[Any]) -> pa.Array:
    kind, hint = _type(hint), _bare(hint)
    if pa.types.is_struct(kind):
        children = [_column(field, _of(values, name)) for name, field in _fields(hint)]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=_missing(values))
    if pa.types.is_list(kind):
        offsets = [0]
        for value in values:
            offsets.append(offsets[-1] + len(value or ()))
        items = _column(_item(hint), [item for value in values for item in value or ()])
        return pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()), items, type=kind, mask=_missing(values)
        )
    if hint not in _LEAVES:
        values = [None if value is None else _json(value) for value in values]
    return pa.array(values, kind)


def _missing(values: Sequence[Any]) -> pa.Array | None:
    missing = [value is None for value in values]
    return pa.array(missing, pa.bool_()) if any(missing) else None


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=dataclasses.asdict)


@functools.cache
def _decoder(hint: Any) -> Callable[[Any], Any]:
    hint = _bare(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        parts = [(name, _decoder(kind)) for name, kind in _fields(hint)]
        changed = [(name, decode) for name, decode in parts if decode is not _same]
        return functools.partial(_decode_fields, changed) if changed else _same
    if (item := _item(hint)) is not None:
        return functools.partial(_decode_items, _decoder(item))
    return _same if hint in _LEAVES else _decode_json


def _same(value: Any) -> Any:
    return value


def _decode_json(value: str | None) -> Any:
    return None if value is None else json.loads(value)


def _decode_items(decode: Callable[[Any], Any], values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(decode(value) for value in values)


def _decode_fields(parts: list[tuple[str, Callable[[Any], Any]]], value: dict[str, Any] | None) -> Any:
    if value is None:
        return None
    return {**value, **{name: decode(value[name]) for name, decode in parts}}
