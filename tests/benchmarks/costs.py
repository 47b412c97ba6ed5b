"""Write infra/COSTS.md from the measurements and assumptions in infra/costs/*.yaml.

python -m tests.benchmarks.costs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rwsa.files import atomic_write
from tests.benchmarks.cost_model import FOLDER, HOURS, TRAINED, Model, read_model

PAGE = FOLDER.parent / "COSTS.md"


def page(model: Model, folder: Path = FOLDER) -> str:
    """The page as Markdown."""
    measured = yaml.safe_load((folder / "measured.yaml").read_text())
    parts = [
        _BEGINNING,
        *_mixing(model),
        *_training(model),
        *_evaluating(model),
        "## What was measured\n",
        _table(
            ("value", "of", "measured by"),
            [(_number(each["value"]), each["of"], f"`{each['by']}`") for each in measured.values()],
        ),
        f"## What is assumed\n\n```yaml\n{(folder / 'assumed.yaml').read_text()}```\n",
    ]
    return "\n".join(parts)


def _mixing(model: Model) -> list[str]:
    node, store = model.assumed["cpu_node"], model.assumed["store"]
    core_hours = HOURS / model.hours_per_core_second / 3600
    gigabytes = HOURS * model.measured["shard_bytes_per_hour"] / 1e9
    examples = HOURS * model.examples_per_hour
    small = examples * (model.measured["plan_bytes_per_example"] + model.measured["index_bytes_per_example"])
    facts = [
        ("work", f"{core_hours:.1f} core-hours, {model.mixing_dollars(1):.2f} dollars on one node"),
        (
            "shards",
            f"{gigabytes:.0f} GB, {gigabytes * store['dollars_per_gigabyte_month']:.2f} dollars per month",
        ),
        ("plan, entries and index", f"{small / 1e6:.0f} MB"),
        (
            "write requests",
            f"{model.puts:,.0f}, {model.puts / 1000 * store['dollars_per_1000_puts']:.2f} dollars",
        ),
        ("source files opened", f"{2 * examples:,.0f}"),
    ]
    rows = []
    for nodes in (1, 2, 4, 8, 16, 32):
        alone, shared = model.mixing_seconds(nodes)
        share = model.mixing_seconds(1)[1] / nodes / (alone + shared)
        rows.append(
            (f"{nodes}", f"{(alone + shared) / 60:.1f}", f"{share:.0%}", f"{model.mixing_dollars(nodes):.2f}")
        )
    core = model.hours_per_core_second
    files, bits = core * model.examples_per_hour * 2, core * model.measured["shard_bytes_per_hour"] * 8
    folder_cores = model.assumed["folder_files_per_second"] / files
    limits = [
        ("CPU", "all of the first node", "1 core"),
        (
            "files opened in a shared folder",
            f"{files:.0f} per second and core",
            f"{folder_cores:.0f} cores",
        ),
        (
            "a node's network",
            f"{bits / 1e6:.0f} Mbit/s written per core, and about as much read",
            f"{node['gigabits_per_second'] * 1e9 / (2 * bits):.0f} cores per node",
        ),
        (
            "requests to one prefix of a store",
            f"{core * model.puts / HOURS:.1f} per second and core",
            f"{store['puts_per_second'] / (core * model.puts / HOURS):,.0f} cores",
        ),
    ]
    worth = max(n for n in range(1, 100) if model.mixing_seconds(n)[1] >= 4 * model.mixing_seconds(n)[0])
    return [
        f"## Mixing {HOURS} hours ({examples:,.0f} examples of {model.workload['example_seconds']:g} s)\n",
        _table(("", ""), facts),
        f"On nodes of {node['cores']} vCPUs, without their start-up. One process draws the plan first, over"
        f" {model.workload['source_files']:,} source files that it has not scanned before; the last but one"
        " column is the share of the time that is left for mixing:\n",
        _table(("nodes", "minutes", "mixing", "dollars"), rows),
        _table(("resource", "use", "saturated by"), limits),
        f"**Worthwhile: {worth} nodes**, which spend four fifths of the time on mixing; with more nodes, the"
        f" plan takes a growing share. From {folder_cores / model.node_cores:.0f} nodes on, opening files in"
        f" a"
        " shared folder is a limit too; copies of the recordings on the nodes' own disks remove it.\n",
    ]


def _training(model: Model) -> list[str]:
    examples, batch = model.workload["epoch_examples"], model.workload["global_batch"]
    whole = model.workload["max_steps"] * batch
    gpus: Sequence[Mapping[str, Any]] = model.assumed["gpu_nodes"]
    rows = []
    for size in TRAINED:
        hours = model.segment_seconds_on_cpu(size) * examples / 3600
        dollars = hours * 2 / model.node_cores * model.assumed["cpu_node"]["dollars_per_hour"]
        days = hours / examples * whole / 24
        times = (f"{hours:.1f} h", f"{dollars:.2f}", f"{days:.0f} days")
        rows.append((size, "two measured cores", *times, f"{dollars / examples * whole:,.0f}"))
        for gpu in gpus:
            low, middle, high = (
                model.segment_seconds_on(size, gpu, part) * examples / 60
                for part in ("low", "middle", "high")
            )
            dollars = middle / 60 * gpu["dollars_per_hour"]
            days = middle / examples * whole / 60 / 24
            rows.append(
                (
                    size,
                    gpu["name"],
                    f"{middle:.1f} min ({high:.1f} to {low:.1f})",
                    f"{dollars:.2f}",
                    f"{days:.1f} days",
                    f"{days * 24 * gpu['dollars_per_hour']:,.0f}",
                )
            )
    several = []
    for gpu in gpus:
        for size in TRAINED:
            alone = model.step_seconds(size, gpu, 1)
            faster = [alone / model.step_seconds(size, gpu, workers) for workers in (2, 4, 8)]
            several.append((gpu["name"], size, *(f"{each:.1f}" for each in faster)))
    fastest = {gpu["name"]: 1 / model.segment_seconds_on("xs", gpu, "middle") for gpu in gpus}
    limits = []
    for name, segments in fastest.items():
        reading = segments * model.measured["reading_seconds_per_hour"] / model.examples_per_hour
        gets = model.assumed["store"]["gets_per_second"] / segments
        limits.append(
            (
                name,
                f"{segments:.0f}",
                f"{segments * model.example_bytes * 8 / 1e6:.0f} Mbit/s",
                f"{reading + segments * model.measured['pesq_seconds_per_segment']:.1f} cores",
                f"{gets:,.0f} GPUs",
            )
        )
    return [
        f"## Training, epochs of {examples:,} examples\n",
        "**No GPU was available.** GPU times are multiply-adds divided by an assumed share of the card's"
        " published peak, with the high and low assumption in brackets;"
        " `python -m tests.benchmarks.bench_gpu` measures a card. CPU times of s and m are those of xs,"
        " scaled by multiply-adds. A step costs"
        f" {model.step_flops_per_mac / 2:.2f} forward passes, as on the CPU. By counting (`step_counts`), 8"
        " segments of xs need more than the L4's 24 GB and 8 of m more than 80 GB in float32: set"
        " `accumulate`.\n",
        _table(
            (
                "size",
                "on",
                "epoch",
                "dollars per epoch",
                f"{model.workload['max_steps']:,} steps",
                "dollars in total",
            ),
            rows,
        ),
        f"Read from an object store, an epoch is {examples * model.example_bytes / 1e9:.2f} GB in"
        f" {examples:,} requests, {examples / 1000 * model.assumed['store']['dollars_per_1000_gets']:.3f}"
        f" dollars. A"
        f" checkpoint of xs is {model.measured['checkpoint_bytes_of_xs'] / 1e6:.1f} MB.\n",
        f"The global batch stays {batch} for any number of workers (one per node), so with more workers each"
        " has less work and waits longer for gradients. Speed-up over one worker:\n",
        _table(("on", "size", "2 workers", "4", "8"), several),
        "What one GPU needs from other resources to train xs; CPU cores decode shards and compute PESQ:\n",
        _table(
            ("on", "segments per second", "network", "CPU", "one prefix of a store is saturated by"), limits
        ),
        f"**Worthwhile: at most {batch} workers**, since each needs at least one segment; fewer if the"
        " speed-up is below half their number. The trials of a sweep are independent: one node each is"
        " worthwhile.\n",
    ]


def _evaluating(model: Model) -> list[str]:
    clips, clip_seconds = model.workload["evaluated_clips"], model.workload["evaluated_clip_seconds"]
    seconds = clips * clip_seconds
    enhancing = 2 * model.measured["enhancing_realtime_factor"] * seconds
    scoring = model.measured["scoring_seconds_per_second"] * seconds
    megabytes = 2 * 2 * 16000 * seconds / 1e6
    node, starting = model.assumed["cpu_node"], model.assumed["node_start_seconds"] / 60
    rows = []
    for size in TRAINED:
        work = enhancing * model.macs[size] / model.macs["xs"]
        dollars = (work + scoring) / model.node_cores / 3600 * node["dollars_per_hour"]
        rows.append(
            (
                size,
                f"{work / 60:.0f}",
                f"{scoring / 60:.1f}",
                f"{(work + scoring) / model.node_cores / 60:.1f}",
                f"{dollars:.3f}",
            )
        )
    return [
        f"## Evaluating a system on a corpus of {clips} clips of {clip_seconds:g} s\n",
        _table(
            ("size", "enhancing, core-minutes", "scoring, core-minutes", "minutes on one node", "dollars"),
            rows,
        ),
        "Enhancement takes nearly all of the time, so the CPU is the limit, and clips are independent."
        f" **Worthwhile: one node per {starting:.0f} minutes of work**, since a node takes that long to"
        f" start. The network carries {megabytes:.0f} MB of 16-bit audio in {2 * clips:,} files. Cached"
        f" scores cost"
        " nothing.\n",
    ]


def _number(value: float) -> str:
    return f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


_BEGINNING = """# What it costs

Bytes, seconds and dollars on a cluster, computed from measurements on two CPU cores and from assumptions,
both listed below and in `infra/costs/`. `python -m tests.benchmarks.costs` writes this page, and a test
compares it. None of it was run on a cluster or checked against a bill.
"""


def main() -> None:
    with atomic_write(PAGE) as temporary:
        temporary.write_text(page(read_model()))
    print(PAGE)


if __name__ == "__main__":
    main()
