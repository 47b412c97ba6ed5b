"""MLflow's SQLite databases in tests: tables made once and then copied; no write waits for the disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import mlflow.store.db.utils
import pytest
import sqlalchemy


@contextmanager
def quick_databases(template: Path) -> Iterator[None]:
    """In this process, until the block ends; MLflow makes the tables at their first use, in `template`."""
    make_tables = mlflow.store.db.utils._initialize_tables

    def copy_tables(engine: sqlalchemy.Engine) -> None:
        path = engine.url.database
        if engine.dialect.name != "sqlite" or not path:
            make_tables(engine)
            return
        if not template.exists():
            make_tables(sqlalchemy.create_engine(f"sqlite:///{template}"))
        with closing(sqlite3.connect(template)) as made, closing(sqlite3.connect(path)) as wanted:
            wanted.execute("PRAGMA synchronous = OFF")
            made.backup(wanted)

    def do_not_wait(connection: Any, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", do_not_wait)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow.store.db.utils, "_initialize_tables", copy_tables)
        yield
    sqlalchemy.event.remove(sqlalchemy.Engine, "connect", do_not_wait)
