"""Options, markers and fixtures of all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Tests share the cores with each other (pytest-xdist); libraries read these when they are first imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

# In the authors' STFT rounding decides the phase of the first frame, and stored losses depend on it (ours
# makes it exact). In these modes every x86 processor rounds as those that the stored numbers come from.
if "torch" not in sys.modules:
    os.environ.setdefault("MKL_CBWR", "COMPATIBLE")
    os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

import pytest
import torch

from tests.suite_times import TestTimes

CHECKOUT = Path(__file__).parents[1]
# Of every test that was collected, before any is deselected: which of `cluster` and `full` it has.
MARKERS = pytest.StashKey[dict[str, frozenset[str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--inputs", type=int, default=60, help="inputs of each test of tests/fuzz (60)")
    parser.addoption("--times", type=Path, metavar="FILE", help="append the seconds of every test to FILE")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.times is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(TestTimes(config.option.times))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark by folder: `cluster` is tests/cluster, and browsers are only in the full suite."""
    for item in items:
        folder = item.path.relative_to(CHECKOUT / "tests").parts[0]
        if folder == "cluster":
            item.add_marker(pytest.mark.cluster)
        if folder == "browser":
            item.add_marker(pytest.mark.full)
    config.stash[MARKERS] = {
        item.nodeid: frozenset(mark.name for mark in item.iter_markers()) & {"cluster", "full"}
        for item in items
    }


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Two processes that each spin two threads on two cores run ten times slower."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _quick_databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if "mlflow" not in sys.modules:
        yield
        return
    # Imported here: it takes a second, and most files need no MLflow.
    from tests.mlflow_database import quick_databases

    with quick_databases(tmp_path_factory.mktemp("mlflow") / "template.db"):
        yield


@pytest.fixture(autouse=True)
def _ray_only_on_the_cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that starts Ray belongs in tests/cluster, whose processes other tests do not share."""
    before = _ray_runs()
    yield
    assert "cluster" in request.keywords or _ray_runs() == before, "starts Ray: move it to tests/cluster"


def _ray_runs() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Folder of real recordings (`RWSA_DATA`)."""
    return _folder("RWSA_DATA", "../shared/data")


@pytest.fixture(scope="session")
def official() -> Path:
    """Folder of the published numbers to agree with (`RWSA_OFFICIAL`)."""
    return _folder("RWSA_OFFICIAL", "../shared/official")


def _folder(variable: str, default: str) -> Path:
    folder = CHECKOUT / os.environ.get(variable, default)
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; set {variable}")
    return folder
