"""Made-up workflows in every state, for tests of their page."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.reports.workflow_report import WorkflowPage
from pipelines.reports.workflow_scores import ScoreFile
from pipelines.reports.workflow_steps import Attempt, PageLink, PageStep

BEGIN = 1_790_000_000.0
SIZES, SEEDS, CORPORA = ("xs", "s", "m"), (0, 1, 2, 3, 4, 5), ("vb_demandex", "dns2020", "ears_wham_v2")


def step(name: str, verb: str, needs: Sequence[str] = (), *, base: str = "", state: str = "done",
         at: float = 0.0, seconds: float = 30.0, why: str = "") -> PageStep:  # fmt: skip
    """A step that ran `seconds` from `at` on, if its state is one of steps that ran."""
    ended = {"done": "done", "failed": "failed", "stopped": "stopped", "interrupted": "interrupted"}
    attempts = (
        [Attempt(started=BEGIN + at, ended=BEGIN + at + seconds, result=ended[state])]
        if state in ended
        else []
    )
    if state == "running":
        attempts = [Attempt(started=BEGIN + at, ended=None, result="running")]
    ran = bool(attempts)
    return PageStep(
        name=name,
        base=base or name,
        verb=verb,
        needs=tuple(needs),
        state=state,
        why=why,
        seconds=seconds if ran else None,
        attempts=attempts,
        results=[
            PageLink(
                label="results", text=f"{name}/0123456789ab/results", href=f"{name}/0123456789ab/results"
            )
        ]
        if state == "done"
        else [],
        log=PageLink(text="log.txt", href=f"{name}/0123456789ab/log.txt") if ran else None,
        runs=[PageLink(text=name, href=f"http://127.0.0.1:5000/#/experiments/1/runs/{name}")] if ran else [],
    )


def small_steps() -> list[PageStep]:
    """Five steps, all done, of which two ran at the same time."""
    return [
        step("mix", "mix", seconds=13),
        step("look", "dataset-page", ["mix"], at=13, seconds=10),
        step("train", "train", ["mix"], at=13, seconds=112),
        step("evaluate", "evaluate", ["mix", "train"], at=125, seconds=37),
        step("sweep", "sweep", ["mix"], at=125, seconds=31),
    ]


def large_steps() -> list[PageStep]:
    """Sixty steps and more in every state, most of them instances; it was interrupted for two days."""
    steps = [
        step("import", "import-pairs", seconds=300),
        step("check", "check", ["import"], at=300, seconds=40),
        step(
            "page",
            "dataset-page",
            ["import"],
            at=300,
            seconds=25,
            state="missing",
            why="page dataset.html was deleted or changed",
        ),
        step(
            "gap", "domain-gap", ["import"], at=300, state="stale", why="file datasets/dns2020.yaml changed"
        ),
    ]
    later = 2 * 86400.0
    for size_at, size in enumerate(SIZES):
        for seed in SEEDS:
            number = size_at * len(SEEDS) + seed
            states = [*["done"] * 8, "stopped", "interrupted", "failed", "running", "running", "invalid"]
            states += ["new"] * 4
            at = 350 + 900 * (number // 2) + (later if number > 6 else 0)
            why = {
                "failed": "val_loss is NaN at step 1200; lower learning_rate, or start from another seed",
                "invalid": "datasets/other.yaml: no such file or folder",
            }.get(states[number], "")
            steps.append(
                step(
                    f"train-{size}-{seed}",
                    "train",
                    ["import", "check"],
                    base="train",
                    state=states[number],
                    at=at,
                    seconds=850,
                    why=why,
                )
            )
    for size_at, size in enumerate(SIZES):
        for seed in SEEDS:
            number = size_at * len(SEEDS) + seed
            for corpus in CORPORA[:2]:
                state, why = ("done", "") if number < 6 else ("waiting", f"needs train-{size}-{seed}")
                steps.append(
                    step(
                        f"evaluate-{size}-{seed}-{corpus}",
                        "evaluate",
                        [f"train-{size}-{seed}"],
                        base="evaluate",
                        state=state,
                        at=350 + 900 * (number // 2) + 860,
                        seconds=35,
                        why=why,
                    )
                )
    evaluations = [one.name for one in steps if one.base == "evaluate"]
    steps += [
        step("trade-off", "trade-off", evaluations, state="waiting", why="needs 24 steps"),
        step("register", "register", [*evaluations, "trade-off"], state="waiting", why="needs trade-off"),
        step("notes", "enhance", ["import"], state="not selected"),
    ]
    return steps


def scores(
    name: str = "",
    systems: Sequence[str] = ("nano",),
    corpora: Sequence[str] = ("libri-esc50", "commands-urban", "voices-ambient"),
) -> ScoreFile:
    """What an evaluation wrote."""
    noisy = {"pesq": 1.2, "ssnr": -1.5, "estoi": 0.61, "si_sdr": 2.99}
    return ScoreFile(
        name=name,
        corpora={
            corpus: {
                "clips": 16,
                "noisy": noisy,
                **{
                    system: {key: value + 0.1 * (number + 1) - 0.03 * at for key, value in noisy.items()}
                    for number, system in enumerate(systems)
                },
            }
            for at, corpus in enumerate(corpora)
        },
    )


def page(steps: Sequence[PageStep], **changes: object) -> WorkflowPage:
    values: dict[str, object] = {
        "name": "demo",
        "description": "Every stage of the project on small recordings.",
        "steps": steps,
        "params": {
            "card": "datasets/libri_esc50.yaml",
            "others": ["datasets/commands_urban.yaml"],
            "examples": 16,
        },
        "about": {
            "file": "pipelines/workflows/demo.yaml",
            "commit": "0123456789ab",
            "storage": "outputs/demo",
        },
        "source": "name: demo\nsteps:\n  mix: {verb: mix}\n",
        "scores": {"evaluate": [scores()]},
        "run": PageLink(text="0" * 32, href="http://127.0.0.1:5000/#/experiments/1/runs/0"),
        "is_running": False,
        "written": BEGIN + 200,
    }
    return WorkflowPage(**(values | changes))  # type: ignore[arg-type]
