"""Enhance groups of files in several processes, each with a copy of the model and a share of the cores."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
import sys
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from types import FrameType
from typing import Any

import safetensors.torch
import torch

from rwsa import process
from rwsa.enhancement.file_group import AudioFile, Progress, enhance_group
from rwsa.errors import InputError
from rwsa.lease import lease_ticket, under_lease
from rwsa.models import ModelConfig, Network, build_model
from rwsa.models.weights import load_weights, weights_of

_SECONDS_TO_END = 10.0


@dataclass(frozen=True, kw_only=True)
class _Setup:
    config: ModelConfig
    weights: bytes  # safetensors
    threads: int
    crossfade: float
    batch_size: int
    lease: Mapping[str, Any] | None


def enhance_in_workers(
    groups: Sequence[Sequence[AudioFile]],
    model: Network,
    crossfade: float,
    batch_size: int,
    progress: Progress,
    *,
    workers: int,
) -> Generator[InputError, None, None]:
    """`enhance_group` of every group, several at a time; errors come in the order of the groups.

    Workers end when the iterator is closed, and remove what they have not finished.

    Raises:
        InputError: as `enhance_group`; also if a worker was killed.
    """
    setup = _Setup(
        config=model.config,
        weights=safetensors.torch.save(weights_of(model)),
        threads=max(1, torch.get_num_threads() // workers),
        crossfade=crossfade,
        batch_size=batch_size,
        lease=lease_ticket(groups[0][0].target),
    )
    waiting, errors = iter(enumerate(groups)), [list[InputError]() for _ in groups]
    done, yielded = [False] * len(groups), 0
    with ExitStack() as stack:
        group_of = {stack.enter_context(_worker(setup)): -1 for _ in range(workers)}
        for connection in group_of:
            group_of[connection] = _give_next(connection, waiting)
        while yielded < len(groups):
            ready = multiprocessing.connection.wait(list(group_of))
            for connection in (each for each in group_of if each in ready):
                match _received(connection):
                    case float(seconds):
                        progress(seconds)
                    case InputError() as error:
                        errors[group_of[connection]].append(error)
                    case _Fatal(error=error):
                        raise error
                    case _:
                        done[group_of[connection]] = True
                        group_of[connection] = _give_next(connection, waiting)
            while yielded < len(groups) and done[yielded]:
                yield from errors[yielded]
                yielded += 1


def _give_next(connection: Connection, waiting: Iterator[tuple[int, Sequence[AudioFile]]]) -> int:
    """Send the next group, if any; returns its number."""
    number, files = next(waiting, (-1, ()))
    if files:
        connection.send([(file.source, file.target) for file in files])
    return number


def _received(connection: Connection) -> Any:
    try:
        return connection.recv()
    except (EOFError, OSError) as error:
        raise InputError(
            "a process that enhances was killed, most likely for memory; use fewer --workers"
        ) from error


@dataclass(frozen=True)
class _Fatal:
    """An error that ends the job."""

    error: BaseException


@contextmanager
def _worker(setup: _Setup) -> Iterator[Connection]:
    """Start a worker; it is ended with the block."""
    context: SpawnContext | ForkServerContext
    if sys.platform == "win32":
        context = multiprocessing.get_context("spawn")
    else:
        # A server that has imported this module, and with it torch, forks the workers: they start at once and
        # share its memory. This process itself may have threads, which a fork would break.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
    connection, other = context.Pipe()
    worker = context.Process(target=_work, args=(other, setup), name="rwsa-enhance", daemon=True)
    worker.start()
    other.close()
    try:
        yield connection
    finally:
        connection.close()
        worker.terminate()
        worker.join(_SECONDS_TO_END)
        worker.kill()
        worker.join()


def _work(connection: Connection, setup: _Setup) -> None:
    """What a worker runs: groups of files from `connection` until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starting process ends its workers
    signal.signal(signal.SIGTERM, _end)
    process.prepare()
    torch.set_num_threads(setup.threads)
    with suppress(EOFError, ConnectionError):
        try:
            model = build_model(setup.config).eval()
            load_weights(model, safetensors.torch.load(setup.weights), where="the model's copy")
            with under_lease(setup.lease):
                while True:
                    files = [AudioFile(*paths) for paths in connection.recv()]
                    for error in enhance_group(
                        files, model, setup.crossfade, setup.batch_size, connection.send
                    ):
                        connection.send(InputError(str(error)))
                    connection.send(None)
        except (EOFError, ConnectionError):
            raise
        except Exception as error:
            if not isinstance(error, InputError):
                error.add_note(f"in a worker:\n{traceback.format_exc()}")
            connection.send(_Fatal(error.with_traceback(None)))


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
