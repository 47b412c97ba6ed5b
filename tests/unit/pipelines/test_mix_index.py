"""`mix_shards index`: the table of a folder from before there were tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.mix_shards import main
from rwsa.shards import Example, write_shard
from rwsa.shards.index import index_sha256, merge_index


def test_it_adds_the_table_and_leaves_the_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wav = np.full(800, 0.25, np.float32)
    one = Example(example_id="a", noisy=wav, clean=wav, sample_rate_hz=16000, meta={})
    for split in ("train", "valid"):
        write_shard(tmp_path, split, 0, [one], sample_rate_hz=16000)
    index, table = merge_index(tmp_path), tmp_path / "index.table"
    written, digest, rows = index.read_bytes(), index_sha256(tmp_path), table.read_bytes()
    table.unlink()
    assert main(["index", "--out", str(tmp_path)]) == 0
    assert (index.read_bytes(), table.read_bytes()) == (written, rows)
    assert capsys.readouterr().out == f"{index}: splits train, valid, SHA-256 {digest}\n"


def test_a_folder_without_shards_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "--out", str(tmp_path / "none")]) == 2
    assert "none: holds no shards" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
