"""YAML: bounded in size, depth and expansion; nothing lost silently; one short error each."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwsa.config import read_yaml, setting
from rwsa.errors import InputError
from rwsa.yaml_text import MAX_BYTES, MAX_DEPTH

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGE_BOMB = "a0: &a0 {x: 1, y: 2}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12)
)


def read(folder: Path, content: bytes) -> object:
    path = folder / "c.yaml"
    path.write_bytes(content)
    return read_yaml(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "more than 20,000 values"),
        (MERGE_BOMB, "more than 20,000 values"),
        ("a: &a [*a]", r"the alias \*a is within its own value"),
        ("a: &a {<<: *a}", r"the alias \*a is within its own value"),
        ("a: *b", "undefined alias"),
        ("a: " + "[" * 10_000, "nested more than 32 deep"),
        ("a: " + "{a: " * 10_000, "nested more than 32 deep"),
        ("".join(" " * n + "a:\n" for n in range(400)), "nested more than 32 deep"),
        ("a: 1\nb: 2\na: 3", "the key 'a' is repeated"),
        ("a: {b: 1, b: 2}", "the key 'b' is repeated"),
        ("a: " + "9" * 100_000, "a number is too long"),
        ("a: 0x" + "f" * 100_000, "a number is too long"),
        ("a: .nan", ".nan is not a finite number"),
        ("a: -.inf", "-.inf is not a finite number"),
        ("a: 1.0e+999", r"1\.0e\+999 is not a finite number"),
        ("a: !!int x", "a value does not fit its tag"),
        ("a: !!int 1:x", "a value does not fit its tag"),
        ("1: a", "a key is not text"),
        (".nan: a", "a key is not text"),
        ("null: a", "a key is not text"),
        ("true: a", "a key is not text"),
        ("? [a]\n: b", "a key is not text"),
        ("a: !!binary aGVsbG8=", "could not determine a constructor"),
        ("a: !!timestamp 2026-99-99", "could not determine a constructor"),
        ("a: !!set {x}", "could not determine a constructor"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("a: !!bool maybe", "a value does not fit its tag"),
        ("a: !!int ''", "a value does not fit its tag"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: \x00", "special characters are not allowed"),
        ("a: \x1b[31m", "special characters are not allowed"),
        (r'a: "x\0"', "text holds a null character"),
        (r'a: ["\ud83d"]', "half of a surrogate pair"),
        (r'"\udcff": a', "half of a surrogate pair"),
        ("a: ${RWSA_X:-\x00}", "special characters are not allowed"),
        ("a: b: c", "not valid YAML"),
        ("a: '" + "x" * MAX_BYTES, "is larger than 128 KiB"),
        ("- 1", "must contain a mapping"),
    ],
)
def test_what_would_hang_or_lose_data_is_one_short_error(tmp_path: Path, content: str, message: str) -> None:
    start = time.process_time()
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, content.encode())
    assert time.process_time() - start < 5  # the bomb took 14 s and 1.3 GB
    assert str(caught.value).startswith(f"{tmp_path}/c.yaml: ")
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_ordinary_yaml_is_read(tmp_path: Path) -> None:
    content = """
    base: &base {rate: 16000, names: [a, b]}
    one: {<<: *base, rate: 48000}
    two: [*base, *base]
    date: 2026-01-01
    words: [off, no, true]
    number: 1_000
    nothing: ~
    """
    base = {"rate": 16000, "names": ["a", "b"]}
    assert read(tmp_path, content.encode()) == {
        "base": base,
        "one": {"rate": 48000, "names": ["a", "b"]},
        "two": [base, base],
        "date": "2026-01-01",
        "words": ["off", "no", True],
        "number": 1000,
        "nothing": None,
    }
    assert len(read(tmp_path, b"a: [" + b"1," * 2000 + b"]")["a"]) == 2000  # type: ignore[index]
    depth = MAX_DEPTH - 1
    assert read(tmp_path, b"a: " + b"[" * (depth - 1) + b"]" * (depth - 1))


@pytest.mark.parametrize("value", [BOMB, "[" * 10_000, "9" * 100_000, ".nan", "!!set {a}", "{a: 1, a: 2}"])
def test_settings_are_as_bounded_as_files(value: str) -> None:
    with pytest.raises(InputError, match="not valid YAML") as caught:
        setting(f"a={value}")
    assert len(str(caught.value)) <= 1000


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin.yaml").write_bytes("a: é".encode("latin-1"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (
        *(Path("/dev/zero"), Path("/dev/null"), tmp_path / "pipe", tmp_path, tmp_path / "latin.yaml"),
        *(tmp_path / "loop", tmp_path / "missing", tmp_path / "\x00", tmp_path / ("x" * 300)),
    ):
        with pytest.raises(InputError, match="cannot be read"):
            read_yaml(path)


@given(st.binary(max_size=60) | st.text("ab:-[]{}&*!<>|\"'#,? \n\t0.", max_size=60).map(str.encode))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_mapping_or_one_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    with suppress(InputError):  # any other error fails
        assert isinstance(read_yaml(path), dict)
