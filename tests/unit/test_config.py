"""Configuration: errors for wrong keys, overlays, environment variables, hashes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from rwsa.config import as_mapping, build, config, config_hash, merge, read_config, read_yaml, setting
from rwsa.errors import InputError

KEYS = st.text("abc", min_size=1, max_size=2)
TREES = st.recursive(st.integers(), lambda leaves: st.dictionaries(KEYS, leaves, max_size=3), max_leaves=8)
MAPPINGS = st.dictionaries(KEYS, TREES, max_size=3)


@config
class Inner:
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    schedule: Literal["cosine", "exponential"] = "cosine"


@config
class Outer:
    name: str
    steps: int = 3
    inner: Inner = Inner()
    spare: Inner | None = None
    several: tuple[Inner, ...] = ()


@config
class Even:
    value: int

    def __post_init__(self) -> None:
        if self.value % 2:
            raise ValueError(f"value is {self.value}; it must be even")


@config
class Holder:
    even: Even


def test_values_become_nested_frozen_objects() -> None:
    made = build(Outer, {"name": "a", "inner": {"learning_rate": 2}, "several": [{}]}, where="f.yaml")
    assert made == Outer(name="a", inner=Inner(learning_rate=2.0), several=(Inner(),))
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.steps = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "a", "stepz": 1}, "f.yaml: unknown key 'stepz'; did you mean 'steps'?"),
        ({"name": "a", "zzz": 1}, "unknown key 'zzz'; valid: name, steps, inner, spare, several"),
        ({}, "f.yaml: missing key 'name'"),
        ({"name": "a", "steps": "many"}, "'steps' is 'many': Input should be a valid integer"),
        (
            {"name": "a", "inner": {"learning_rat": 1}},
            "unknown key 'inner.learning_rat'; did you mean 'learning_rate'?",
        ),
        (
            {"name": "a", "spare": {"shedule": 1}},
            "unknown key 'spare.shedule'; did you mean 'schedule'?",
        ),
        (
            {"name": "a", "several": [{}, {"shedule": 1}]},
            "unknown key 'several.1.shedule'; did you mean 'schedule'?",
        ),
        ({"name": "a", "inner": {"schedule": "linear"}}, "'inner.schedule' is 'linear': Input should be"),
        ({"name": "a", "inner": {"learning_rate": 0}}, "'inner.learning_rate' is 0: Input should be greater"),
        ({"name": "a", "inner": 5}, "'inner' is 5: Input should be"),
    ],
)
def test_a_wrong_key_is_named_with_its_remedy(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        build(Outer, values, where="f.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_wrong_keys_are_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        build(Outer, {"stepz": 1, "inner": {"schedul": 1}}, where="f.yaml")
    assert all(part in str(caught.value) for part in ("'stepz'", "'inner.schedul'", "missing key 'name'"))


def test_errors_of_post_init_are_reported() -> None:
    with pytest.raises(InputError, match=r"^f\.yaml: value is 3; it must be even$"):
        build(Even, {"value": 3}, where="f.yaml")
    with pytest.raises(InputError, match=r"^f\.yaml: 'even': value is 3; it must be even$"):
        build(Holder, {"even": {"value": 3}}, where="f.yaml")


def test_overlays_are_merged_in_order_and_settings_last(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("name: a\nsteps: 1\ninner: {learning_rate: 0.5, schedule: cosine}\n")
    (tmp_path / "over.yaml").write_text("steps: 2\ninner: {learning_rate: 0.25}\n")
    paths = [tmp_path / "base.yaml", tmp_path / "over.yaml"]
    expected = Outer(name="a", steps=2, inner=Inner(learning_rate=0.25))
    assert read_config(Outer, paths) == expected
    changed = read_config(Outer, paths, ["steps=7", "inner.schedule=exponential", "spare={}"])
    assert changed == Outer(
        name="a", steps=7, inner=Inner(learning_rate=0.25, schedule="exponential"), spare=Inner()
    )


def test_errors_name_all_merged_files(tmp_path: Path) -> None:
    for name in ("base.yaml", "over.yaml"):
        (tmp_path / name).write_text("stepz: 1\n")
    with pytest.raises(InputError, match=r"^base\.yaml \+ over\.yaml: "):
        read_config(Outer, [tmp_path / "base.yaml", tmp_path / "over.yaml"])
    with pytest.raises(InputError, match=r"^settings: missing key 'name'"):
        read_config(Outer, [])


@given(base=MAPPINGS, overlay=MAPPINGS)
def test_merging_keeps_what_the_overlay_leaves_out(base: dict, overlay: dict) -> None:
    merged = merge(base, overlay)
    assert merged.keys() == base.keys() | overlay.keys()
    assert all(merged[key] == base[key] for key in base.keys() - overlay.keys())
    assert merge(merged, overlay) == merged
    assert merge({}, overlay) == overlay


@pytest.mark.parametrize(
    ("text", "nested"),
    [
        ("a.b.c=1e-3", {"a": {"b": {"c": "1e-3"}}}),  # YAML 1.1 has no 1e-3; pydantic reads it as a number
        ("a=[1, 2]", {"a": [1, 2]}),
        ("a=", {"a": None}),
        ("a=b=c", {"a": "b=c"}),
        ("a=true", {"a": True}),
        ("a=off", {"a": "off"}),  # a word, as in YAML 1.2: a sharing mode is called so
        ("a=falsetto", {"a": "falsetto"}),
    ],
)
def test_settings_are_yaml(text: str, nested: dict) -> None:
    assert setting(text) == nested


@pytest.mark.parametrize("text", ["a", "=1", "a..b=1", ".a=1", ""])
def test_a_setting_without_a_name_or_value_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"must have the form key\.subkey=value"):
        setting(text)


def test_a_setting_that_is_not_yaml_is_refused() -> None:
    with pytest.raises(InputError, match=r"--set a=\[1: .*not valid YAML"):
        setting("a=[1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must contain a mapping of keys to values, not NoneType"),
        (b"- 1", "not list"),
        (b"a: [1", "not valid YAML"),
        (b"a: \xff\xfe", "cannot be read"),
    ],
)
def test_a_file_that_is_not_a_mapping_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read"):
        read_yaml(tmp_path / "none.yaml")


def test_hash_ignores_the_order_of_keys_and_sees_every_value() -> None:
    one = build(Outer, {"name": "a", "steps": 2, "inner": {"learning_rate": 1}}, where="")
    two = build(Outer, {"inner": {"learning_rate": 1.0}, "steps": 2, "name": "a"}, where="")
    assert config_hash(one) == config_hash(two)
    others = [Outer(name="b", steps=2), Outer(name="a", steps=3), Outer(name="a", steps=2, spare=Inner())]
    assert len({config_hash(each) for each in (one, *others)}) == 4


def test_plain_mapping_and_back() -> None:
    made = Outer(name="a", spare=Inner(schedule="exponential"), several=(Inner(), Inner(learning_rate=3)))
    assert build(Outer, as_mapping(made), where="") == made
