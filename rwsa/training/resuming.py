"""Resuming a run: from its newest intact checkpoint, with a line on what has changed since."""

from __future__ import annotations

import logging

from rwsa.errors import InputError
from rwsa.shards.sampling import share_of
from rwsa.training import ranks
from rwsa.training.checkpoints import Checkpoints, DamagedCheckpointError, local_folder
from rwsa.training.context import WorkerContext
from rwsa.training.saved_state import listed
from rwsa.training.state import TrainState

_log = logging.getLogger(__name__)


def resume(state: TrainState, context: WorkerContext, order_identity: str) -> None:
    """Load the newest intact checkpoint into `state`, if the run has any; every rank calls this.

    Newer ones that are damaged are renamed to `step-….damaged` and reported.

    Raises:
        InputError: the ranks see different checkpoints, none is intact, or one does not fit the
            configuration; on all ranks.
    """
    checkpoints = context.checkpoints
    found = checkpoints.found()
    if not ranks.same_everywhere(f"{found[-1] if found else 0:x}", context.device):
        raise InputError(
            f"{checkpoints.folder}: the ranks see different checkpoints; keep them in a folder that all nodes"
            " share, or in an object store"
        )
    if not found:
        return
    share = share_of(state.config.global_batch_size, rank=context.rank, world_size=context.world_size)
    chosen, problem = "", ""
    if context.rank == 0:
        try:
            chosen = str(_load_newest_intact(state, checkpoints, order_identity, share))
        except InputError as error:
            if ranks.world_size() == 1:
                raise
            problem = str(error)
    chosen, problem = ranks.gathered(chosen)[0], ranks.gathered(problem)[0]
    if problem:
        raise InputError(problem)
    if context.rank != 0:
        _load(state, checkpoints, int(chosen), order_identity, share)
    if state.best_step not in checkpoints.steps():  # it was deleted or damaged
        state.reset_best()
    if context.rank == 0:
        _report(state)


def _load_newest_intact(
    state: TrainState, checkpoints: Checkpoints, order_identity: str, share: slice
) -> int:
    damaged: dict[int, str] = {}
    for step in reversed(checkpoints.found()):
        try:
            _load(state, checkpoints, step, order_identity, share)
        except DamagedCheckpointError as error:
            damaged[step] = str(error)
            continue
        for other, reason in damaged.items():
            aside = checkpoints.set_aside(other)
            _log.warning("%s; kept as %s; training resumes at step %d", reason, aside, step)
        return step
    first = next(iter(damaged.values()))
    raise InputError(
        f"{first}; no checkpoint of this run is intact; restore one, or give the run another name to start"
        " anew"
    )


def _load(state: TrainState, checkpoints: Checkpoints, step: int, order_identity: str, share: slice) -> None:
    with local_folder(checkpoints.path(step)) as folder:
        state.load(folder, order_identity=order_identity, share=share)


def _report(state: TrainState) -> None:
    """Say which settings have changed, and that a finished run does nothing more."""
    config, step = state.config, state.step
    changed = {name: values for name, values in state.changed.items() if name != "max_steps"}
    if changed:
        score = "; the best score starts anew" if "best_metric" in changed else ""
        _log.warning(
            "run %s was saved at step %d with other settings: %s; the new ones take effect from there, so the"
            " results are not those of one configuration%s",
            config.name,
            step,
            listed(changed),
            score,
        )
    if not state.done:
        return
    limit = "max_steps" if step >= config.max_steps else "patience"
    _log.warning(
        "run %s is finished at step %d; to go on, raise %s (now %s); to start anew, choose another name",
        config.name,
        step,
        limit,
        getattr(config, limit),
    )
