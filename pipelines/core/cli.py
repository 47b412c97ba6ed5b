"""Command-line options shared by the verbs, and the wrapper of every command."""

from __future__ import annotations

import argparse
import functools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.core.storage import StorageConfig
from rwsa import command_line
from rwsa.command_line import AddArguments, Command, Main, path_argument
from rwsa.config import config, read_config
from rwsa.corpora.cards import SPLITS
from rwsa.errors import InputError
from rwsa.file_cache import cache_folder
from rwsa.files import StoragePath, location

ADDRESS = "RAY_ADDRESS"


def verb(
    module: str, about: str | None, *arguments: AddArguments, failure: str | None = None
) -> Callable[[Command], Main]:
    """`rwsa.command_line.verb` for `python -m MODULE`; sets `RAY_ADDRESS` from `--address` while it runs."""
    frame = command_line.verb(f"python -m {module}", about, *arguments, failure=failure)

    def decorate(command: Command) -> Main:
        @functools.wraps(command)
        def at_its_address(options: argparse.Namespace) -> int:
            with at_address(getattr(options, "address", None)):
                return command(options)

        return frame(at_its_address)

    return decorate


@contextmanager
def at_address(address: str | None) -> Iterator[None]:
    """Set `RAY_ADDRESS` for this process and its children; None changes nothing.

    Neither does `auto` where the variable is set, as in Ray: in a job it names the job's own cluster, and a
    search of this machine could find another one.
    """
    before = os.environ.get(ADDRESS)
    if address is None or (address == "auto" and before):
        yield
        return
    os.environ[ADDRESS] = address
    try:
        yield
    finally:
        os.environ.pop(ADDRESS)
        os.environ.update({} if before is None else {ADDRESS: before})


def as_location(text: str) -> StoragePath:
    """`rwsa.files.location` as an argument's type; argparse would print a refused URL with its password."""
    try:
        return location(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def cluster_argument(parser: argparse.ArgumentParser) -> None:
    """`--address`; `verb` applies it."""
    parser.add_argument(
        "--address",
        help="Ray cluster to use: HOST:PORT, ray://HOST:PORT, or auto: RAY_ADDRESS if set, else the one that"
        " runs on this machine (default: RAY_ADDRESS if set, else a new Ray on this machine)",
    )


def workers_argument(parser: argparse.ArgumentParser) -> None:
    """`--workers` of Ray tasks; see `pipelines.core.pool.map_unordered`."""
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="Ray tasks at a time; 0 runs in this process, without Ray (default: one per CPU)",
    )


@config
class StorageSettings:
    """The configuration that `--set` changes in a verb without any other."""

    storage: StorageConfig = StorageConfig()


class _Root(argparse.Action):
    """Turns `--storage X` into `--set storage.root=X`, so that the later of the two options wins."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        options: argparse.Namespace,
        value: Any,
        option: str | None = None,
    ) -> None:
        setattr(options, self.dest, [*getattr(options, self.dest), f"storage.root={json.dumps(value)}"])


def storage_arguments(
    parser: argparse.ArgumentParser,
    *,
    metavar: str = "storage.KEY=VALUE",
    help: str = "change where results go: root, tracking_uri, experiment, …",
) -> None:
    """`--storage` and `--set`, both in `options.settings`; see `storage_of`."""
    parser.add_argument(
        "--storage",
        dest="settings",
        action=_Root,
        default=[],
        metavar="ROOT",
        help="folder for results, or s3://…, gs://…; short for --set storage.root=ROOT"
        f" (default: {StorageConfig().root})",
    )
    parser.add_argument(
        "--set", dest="settings", nargs="+", action="extend", default=[], metavar=metavar, help=help
    )


def storage_of(options: argparse.Namespace) -> StorageConfig:
    """The storage that `storage_arguments` name.

    Raises:
        InputError: a setting is invalid.
    """
    return read_config(StorageSettings, [], options.settings).storage


def out_argument(parser: argparse.ArgumentParser, *, name: str, metavar: str = "FOLDER") -> None:
    """`--out`, whose default is `name` below the root of `storage_arguments`; see `out_of`."""
    parser.add_argument(
        "--out", type=as_location, metavar=metavar, help=f"where to write (default: ROOT/{name})"
    )


def out_of(options: argparse.Namespace, *, name: str) -> StoragePath:
    """The location that `out_argument` names.

    Raises:
        InputError: a setting is invalid.
    """
    out: StoragePath | None = options.out
    return out or location(storage_of(options).root) / name


def mlflow_argument(parser: argparse.ArgumentParser) -> None:
    """`--mlflow`."""
    parser.add_argument("--mlflow", action="store_true", help="also log the results as an MLflow run")


def corpora_arguments(parser: argparse.ArgumentParser) -> None:
    """`--card` and `--shards`, any number of each."""
    parser.add_argument(
        "--card",
        type=path_argument,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE.yaml",
        help="corpus cards",
    )
    parser.add_argument(
        "--shards",
        type=as_location,
        nargs="+",
        action="extend",
        default=[],
        metavar="FOLDER",
        help="folders of shards",
    )


def cache_argument(parser: argparse.ArgumentParser) -> None:
    """`--cache` of audio-file headers and statistics; see `rwsa.file_cache`."""
    parser.add_argument(
        "--cache",
        type=path_argument,
        default=cache_folder(Path(StorageConfig().root)),
        metavar="FOLDER",
        help="cache of audio-file headers and statistics, on a local disk (default: RWSA_CACHE, else"
        " outputs/cache)",
    )


def shards_arguments(parser: argparse.ArgumentParser) -> None:
    """What verbs that write shards share; see `shards_of`."""
    root = StorageConfig().root
    parser.add_argument(
        "--out",
        type=as_location,
        metavar="FOLDER",
        help="folder for the shards, or s3://…, gs://… (default: ROOT/shards)",
    )
    parser.add_argument(
        "--storage",
        default=root,
        metavar="ROOT",
        help=f"folder for results, or s3://…, gs://… (default: {root})",
    )
    parser.add_argument("--splits", nargs="+", choices=SPLITS, help="splits to write (default: all)")
    parser.add_argument(
        "--shard-examples", type=int, default=64, metavar="N", help="examples per shard (default: 64)"
    )


def shards_of(options: argparse.Namespace) -> StoragePath:
    """The folder that `shards_arguments` name.

    Raises:
        InputError: see `rwsa.files.location`.
    """
    out: StoragePath | None = options.out
    return out or location(options.storage) / "shards"
