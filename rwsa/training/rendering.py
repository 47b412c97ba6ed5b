"""What the processes that mix for training run. Imports no torch, so that they start fast and stay small."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

from rwsa.errors import InputError
from rwsa.mixing import render_example
from rwsa.mixing.plans import MixPlan
from rwsa.shards.examples import Example
from rwsa.training.crops import Missing


def rendered(plan: MixPlan, shard: str, *, strict: bool) -> Example | Missing:
    """Render a row of the plan of `shard`.

    Raises:
        InputError: it cannot be rendered, and `strict`.
    """
    try:
        return render_example(plan)
    except InputError as error:
        if strict:
            raise
        return Missing(shard=shard, reason=f"example {plan.example_id} could not be mixed: {error}")


def prepare_process() -> None:
    """Leave Ctrl-C and SIGTERM to the parent, and end when it does, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="rwsa-parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a child alone"
    parent.join()
    os._exit(1)
