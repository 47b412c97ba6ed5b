"""The demo empties only folders that it made."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.demo import MARK, make_empty
from rwsa.errors import InputError


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"--out .*not made by the demo.*name a new folder"):
        make_empty(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match=r"thesis\.txt"):
        make_empty(tmp_path / "thesis.txt")


def test_an_earlier_demo_is_emptied(tmp_path: Path) -> None:
    out = tmp_path / "outputs" / "demo"
    for _ in range(2):
        make_empty(out)
        assert [path.name for path in out.iterdir()] == [MARK]
        (out / "shards").mkdir()
        (out / "shards" / "index.json").write_text("{}")


def test_the_folder_of_a_demo_without_the_mark_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for name in ("summary.json", "shards/index.json"):
        (tmp_path / name).write_text("{}")
    make_empty(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [MARK]


def test_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    make_empty(tmp_path / "demo")
    (tmp_path / "demo" / "link").symlink_to(kept)
    make_empty(tmp_path / "demo")
    assert (kept / "file").exists()
    assert not (tmp_path / "demo" / "link").exists()
