"""Strategies of hypothesis for damaged and hostile files, made from valid ones."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import yaml
from hypothesis import strategies as st

_DEEP: Any = "x"
for _ in range(300):
    _DEEP = [_DEEP]
HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, -(2**63), 10**30, 0.5, 1e308, -0.0, math.nan, math.inf, -math.inf),
    *(
        "",
        " ",
        "x",
        "a" * 50_000,
        "\x00",
        "\x1b[31m",
        "\u202e",
        "😀",
        "a\nb",
        "-rf",
        "~",
        "~root",
        "%s%n",
        "{0}",
    ),
    *(
        "pipe:touch touched",
        "|touch touched",
        "$(touch touched)",
        "`touch touched`",
        "'; DROP TABLE shards; --",
    ),
    *(
        "../../../../../../etc/passwd",
        "/etc/passwd",
        "file:///etc/passwd",
        "s3://bucket/x",
        "http://127.0.0.1:9/x",
    ),
    *(
        "/dev/zero",
        "train-000000.tar/../../../x",
        "train-000000.tar\n",
        "${HOME}",
        "${AWS_SECRET_ACCESS_KEY}",
    ),
    *("(a+)+$", "(", "[", "(?P<split>", "(?P<split>.*)*(?P<pair>.*)*", "\\", "x{1000}{1000}"),
    *(
        [],
        {},
        [[]],
        [{}],
        {"x": "y"},
        {"": ""},
        [None],
        _DEEP,
        list(range(2000)),
        {str(n): n for n in range(2000)},
    ),
    *("2020-01-01", "1e999", "0x10", "1_000", "nan", "!!python/object/apply:os.system [touch touched]"),
)
# Texts that a YAML parser treats as more than text; put into a file as they are.
_YAML_TEXTS = (
    "!!python/object/apply:os.system ['touch touched']",
    "!!python/name:os.system",
    "&a [*a, *a]",
    "[" * 3000,
    "{" * 3000,
    "- " * 3000,
    "*nowhere",
    "<<: *nowhere",
    "? [a, b] : c",
    "2020-13-45",
    "%YAML 9.9",
    "\t",
    "...\n---\n",
    "!!binary aGk=",
    "!!set {a, b}",
    "0" * 5000,
    "9" * 5000,
    "1e" + "9" * 400,
    "${RWSA_UNSET}",
)
hostile_values = st.sampled_from(HOSTILE) | st.integers() | st.floats() | st.text(max_size=20)


def _paths(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in nested mappings and lists."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [at, *(path for key, child in children for path in _paths(child, (*at, key)))]


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


@st.composite
def damaged_tree(draw: st.DrawFn, tree: Any) -> Any:
    """Nested mappings and lists with one to four values replaced, deleted, renamed, repeated or added."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from(_paths(tree)))
        if not path:
            if draw(st.integers(0, 30)) == 0:
                return draw(hostile_values)
            continue
        parent, key = _at(tree, path[:-1]), path[-1]
        match draw(st.sampled_from(["replace"] * 5 + ["delete", "rename", "repeat", "add", "wrap", "swap"])):
            case "replace":
                parent[key] = copy.deepcopy(draw(hostile_values))
            case "delete":
                del parent[key]
            case "rename" if isinstance(parent, dict):
                parent[draw(st.sampled_from([f"{key}s", "", "__class__", "self", "a" * 3000]))] = parent.pop(
                    key
                )
            case "repeat" if isinstance(parent, list):
                parent.extend([copy.deepcopy(parent[key])] * draw(st.integers(1, 3)))
            case "add" if isinstance(parent, dict):
                parent[draw(st.text(max_size=8))] = copy.deepcopy(draw(hostile_values))
            case "wrap":
                parent[key] = draw(
                    st.sampled_from([[parent[key]], {"x": parent[key]}, str(parent[key])[:100]])
                )
            case "swap":
                other = draw(st.sampled_from(_paths(tree)))
                parent[key] = copy.deepcopy(_at(tree, other))
    return tree


@st.composite
def damaged_bytes(draw: st.DrawFn, data: bytes, *, header: int = 256) -> bytes:
    """A file with one to six bytes or runs changed, removed, repeated or added, mostly in its header."""
    damaged = bytearray(data)
    for _ in range(draw(st.integers(1, 6))):
        if not damaged:
            break
        last = len(damaged) - 1
        at = draw(st.integers(0, min(header, last)) | st.integers(0, last))
        match draw(st.sampled_from(("byte", "bit", "number", "cut", "remove", "insert", "repeat"))):
            case "byte":
                damaged[at] = draw(st.integers(0, 255))
            case "bit":
                damaged[at] ^= 1 << draw(st.integers(0, 7))
            case "number":
                size = draw(st.sampled_from((2, 4, 8)))
                number = draw(st.sampled_from((0, 1, 2**15 - 1, 2**31 - 1, 2**31, 2**63 - 1, 2**64 - 1)))
                order = draw(st.sampled_from(("little", "big")))
                damaged[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, order)
            case "cut":
                del damaged[at:]
            case "remove":
                del damaged[at : at + draw(st.integers(1, 64))]
            case "insert":
                damaged[at:at] = draw(st.binary(min_size=1, max_size=64))
            case "repeat":
                damaged[at:at] = damaged[at : at + draw(st.integers(1, 600))]
    return bytes(damaged)


@st.composite
def damaged_yaml(draw: st.DrawFn, tree: Any) -> bytes:
    """A YAML file: its values damaged, or its text, or with what only YAML can say."""
    match draw(st.sampled_from(["tree"] * 6 + ["text", "bytes", "yaml", "bomb"])):
        case "tree":
            return yaml.safe_dump(draw(damaged_tree(tree)), allow_unicode=True).encode(
                "utf-8", "surrogatepass"
            )
        case "bytes":
            return draw(damaged_bytes(yaml.safe_dump(tree).encode(), header=10_000))
        case "yaml":
            lines = yaml.safe_dump(tree).splitlines()
            at = draw(st.integers(0, len(lines) - 1))
            key, colon, _ = lines[at].partition(":")
            lines[at] = f"{key}{colon} {draw(st.sampled_from(_YAML_TEXTS))}"
            return "\n".join(lines).encode()
        case "bomb":
            levels, width = draw(st.integers(2, 12)), draw(st.integers(2, 10))
            first = f"a0: &a0 [{', '.join(['x'] * width)}]"
            rest = (f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels))
            return "\n".join([first, *rest, yaml.safe_dump(tree)]).encode()
        case _:
            return draw(st.text(max_size=300)).encode("utf-8", "surrogatepass")


@st.composite
def damaged_json(draw: st.DrawFn, text: str) -> bytes:
    """A JSON file: its values damaged, or its text."""
    if draw(st.integers(0, 3)):
        return json.dumps(draw(damaged_tree(json.loads(text)))).encode()
    return draw(damaged_bytes(text.encode(), header=len(text)))
