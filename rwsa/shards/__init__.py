"""WebDataset shards of paired FLAC: written atomically, read by offset, verified by checksum."""

from __future__ import annotations

from rwsa.shards.examples import Example
from rwsa.shards.reader import DamagedShardError, ShardReader
from rwsa.shards.tars import as_webdataset, is_intact, is_up_to_date, verify, write_shard

__all__ = [
    "DamagedShardError",
    "Example",
    "ShardReader",
    "as_webdataset",
    "is_intact",
    "is_up_to_date",
    "verify",
    "write_shard",
]
