"""YAML of limited size, depth and expansion, without what loses data silently."""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from rwsa.errors import InputError

MAX_BYTES = 128 * 1024
MAX_DEPTH = 32
# Values after aliases are expanded; a bomb of a dozen lines has millions.
MAX_VALUES = 20_000
_MAX_NUMBER_CHARACTERS = 64
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_TAG = "tag:yaml.org,2002:"
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")


def read_text(path: Path, *, limit: int = MAX_BYTES) -> str:
    """The text of a regular file of at most `limit` bytes.

    Raises:
        InputError: it is missing, no regular file, too large, or not UTF-8.
    """
    try:
        # Opening a pipe without a writer would wait for one.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise InputError(f"{path}: cannot be read; it must be a regular file")
            data = file.read(limit + 1)
        if len(data) > limit:
            raise InputError(f"{path}: is larger than {limit // 1024} KiB; this is no configuration")
        return data.decode("utf-8")
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a null byte in the name
        raise InputError(f"{path}: cannot be read ({error})") from error


def parse_yaml(text: str) -> Any:
    """Parse one YAML document of plain values: text, numbers, booleans, null, lists and mappings.

    Booleans are those of YAML 1.2, so `off` and `no` are text, and so are dates.

    Raises:
        yaml.YAMLError: not YAML; a key is repeated or is not text; nested deeper than `MAX_DEPTH`; more than
            `MAX_VALUES` values, counting those of aliases each time; an alias of a value within itself; a
            number of more than 64 characters, or not finite; a tag other than the plain ones; text with a
            null character or half of a surrogate pair.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # of values such as `!!bool maybe`
        raise yaml.YAMLError(f"a value does not fit its tag ({error})") from error
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        self.depth = 0
        self.count = 0
        self.expanded: dict[int, int] = {}  # id of a composed node -> values below it
        super().__init__(text)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            node = self.anchors.get(event.anchor)
            if node is not None and id(node) not in self.expanded:
                raise _problem(f"the alias *{event.anchor} is within its own value", event.start_mark)
            self._add(self.expanded.get(id(node), 1), event.start_mark)
            return super().compose_node(parent, index)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _problem(f"nested more than {MAX_DEPTH} deep", event.start_mark)
        before = self.count
        self._add(1, event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        self.expanded[id(node)] = self.count - before
        return node

    def _add(self, values: int, mark: Any) -> None:
        self.count += values
        if self.count > MAX_VALUES:
            raise _problem(f"more than {MAX_VALUES:,} values, with its aliases expanded", mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if key.tag == f"{_TAG}merge":
                continue
            if key.tag != f"{_TAG}str":
                raise _problem("a key is not text; put it in quotes", key.start_mark)
            if key.value in seen:
                raise _problem(f"the key '{key.value}' is repeated; remove one", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and _NO_TEXT.search(value):  # no file can have such a name
            raise _problem("text holds a null character or half of a surrogate pair", node.start_mark)
        return value

    def number(self, node: yaml.ScalarNode) -> int | float:
        if len(node.value) > _MAX_NUMBER_CHARACTERS:
            raise _problem("a number is too long; put it in quotes if it is text", node.start_mark)
        kind = self.construct_yaml_int if node.tag == f"{_TAG}int" else self.construct_yaml_float
        value: int | float = kind(node)
        if not math.isfinite(value):
            raise _problem(f"{node.value} is not a finite number", node.start_mark)
        return value


def _problem(text: str, mark: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, text, mark)


# Without timestamps, which would become dates, and with the booleans of YAML 1.2.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag not in (f"{_TAG}bool", f"{_TAG}timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(f"{_TAG}bool", re.compile("^(?:true|True|false|False)$"), list("tTfF"))
_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix(_TAG) in _PLAIN
}
for _kind in ("int", "float"):
    _Loader.add_constructor(f"{_TAG}{_kind}", _Loader.number)
