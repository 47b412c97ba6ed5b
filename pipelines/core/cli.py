"""What the verbs have in common: the cluster to use, where results go, and how a command ends."""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pipelines.core.storage import StorageConfig
from rwsa.config import config, read_config
from rwsa.errors import InputError
from rwsa.files import location

ADDRESS = "RAY_ADDRESS"
INTERRUPTED = 130


class _Main(Protocol):
    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


@config
class StorageSettings:
    """What `--set` can change of a verb that has no other configuration."""

    storage: StorageConfig = StorageConfig()


class _Root(argparse.Action):
    """`--storage X` is `--set storage.root=X`, wherever in the command line it stands."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        options: argparse.Namespace,
        value: Any,
        option: str | None = None,
    ) -> None:
        setattr(options, self.dest, [*getattr(options, self.dest), f"storage.root={json.dumps(value)}"])


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """`--address`, for `at_address`."""
    parser.add_argument(
        "--address",
        help="of a Ray cluster to use: auto, HOST:PORT or ray://HOST:PORT; default: RAY_ADDRESS, which jobs"
        " are given, or a Ray of its own on this machine",
    )


def add_storage_arguments(
    parser: argparse.ArgumentParser, *, metavar: str = "storage.KEY=VALUE", help: str | None = None
) -> None:
    """`--storage` and `--set`, both in `options.settings`; see `storage_of`."""
    parser.add_argument(
        "--storage",
        dest="settings",
        action=_Root,
        default=[],
        metavar="ROOT",
        help="where results go: a folder, s3://… or gs://… (storage.root)",
    )
    parser.add_argument(
        "--set", dest="settings", nargs="+", action="extend", default=[], metavar=metavar, help=help
    )


def place(text: str) -> Path:
    """`rwsa.files.location` as an argument's type; what it refuses, argparse would print, passwords too."""
    try:
        return location(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_shards_arguments(parser: argparse.ArgumentParser) -> None:
    """`--out`, a location, and the `--storage` that it lies in by default."""
    parser.add_argument(
        "--out",
        type=place,
        metavar="FOLDER",
        help="for the shards, or s3://…, gs://…; default: ROOT/shards",
    )
    parser.add_argument(
        "--storage",
        default=StorageConfig().root,
        metavar="ROOT",
        help=f"as other verbs have it; default: {StorageConfig().root}",
    )


def shards_of(options: argparse.Namespace) -> Path:
    """Where the shards go.

    Raises:
        InputError: see `rwsa.files.location`.
    """
    out: Path | None = options.out
    return out or location(options.storage) / "shards"


def storage_of(options: argparse.Namespace) -> StorageConfig:
    """The storage of a verb that has no other configuration.

    Raises:
        InputError: a setting is wrong.
    """
    return read_config(StorageSettings, [], options.settings).storage


@contextmanager
def at_address(address: str | None) -> Iterator[None]:
    """Have whatever starts Ray meanwhile, in this process or its children, join the cluster there."""
    before = os.environ.get(ADDRESS)
    if address is not None:
        os.environ[ADDRESS] = address
    try:
        yield
    finally:
        if address is not None:
            os.environ.pop(ADDRESS)
            os.environ.update({} if before is None else {ADDRESS: before})


def verb(main: _Main) -> _Main:
    """A command line whose wrong inputs end in one line and status 2, and Ctrl-C in status 130.

    When the process ends, Ray ends what it had under way on a cluster.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("stopped; what is whole is kept: the same command goes on", file=sys.stderr)
            return INTERRUPTED

    return run
