"""Dry run of mixing: hours, storage and time, from a few examples of the plan."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.core.progress import duration
from pipelines.mixing.shard_jobs import render_examples
from rwsa.corpora.cards import Split
from rwsa.mixing import MixPlan
from rwsa.shards import write_shard

_TIMED_EXAMPLES = 16


def dry_run(plans: Mapping[Split, Sequence[MixPlan]], *, shard_examples: int, corpus: str) -> str:
    """A line per split, and one of storage and time, measured on examples spread over the plans.

    Args:
        plans: split -> plan, which is drawn only as far as it is measured.
        shard_examples: examples per shard.
        corpus: its name.
    """
    count = sum(map(len, plans.values()))
    split, rows = max(plans.items(), key=lambda plan: len(plan[1]))
    chosen = [rows[at] for at in range(0, len(rows), -(-len(rows) // _TIMED_EXAMPLES))]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="rwsa-dry-run-") as folder:
        entry = write_shard(
            Path(folder),
            split,
            0,
            render_examples(chosen, strict=False),
            sample_rate_hz=chosen[0].sample_rate_hz,
            corpus=corpus,
            recipe_hash="",
            plan_hash="",
        )
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    seconds = time.perf_counter() - started
    per_example, share = count / len(chosen), entry.seconds / 3600
    lines: dict[str, str] = {
        split: f"{len(rows):,} examples in {-(-len(rows) // shard_examples):,} shards"
        for split, rows in plans.items()
    }
    lines["in all"] = (
        f"about {share * per_example:,.1f} h and {size * per_example / 1e9:,.2f} GB; about"
        f" {duration(seconds * per_example)} on one core, less on more"
    )
    if entry.failures:
        lines["failed"] = f"{len(entry.failures)} of {len(chosen)} examples: {entry.failures[0].reason}"
    width = max(map(len, lines))
    return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items())
