"""The two suites: every test is in one pass of `make test-all`, and markers and folders agree."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain, combinations
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

from tests.conftest import MARKERS

CHECKOUT = Path(__file__).parents[2]
TESTS = CHECKOUT / "tests"
KINDS = [
    frozenset(kind) for kind in chain.from_iterable(combinations(("cluster", "full"), n) for n in range(3))
]


@pytest.fixture(scope="module")
def markers(request: pytest.FixtureRequest) -> Mapping[str, frozenset[str]]:
    """Of all tests that this run of pytest collected."""
    return request.config.stash[MARKERS]


def passes(suite: str) -> list[str]:
    """The marker expressions of a suite's runs of pytest."""
    lines = (CHECKOUT / "Makefile").read_text().splitlines()
    call = lines[lines.index(f"{suite}: .venv") + 1]
    return re.findall(r"\$\(call pytest_twice,([^,]+),([^,)]+)[,)]", call)[0]


def chosen(suite: str, kind: frozenset[str]) -> int:
    """How many runs of pytest of a suite choose tests that have these markers and no others."""
    return sum(Expression.compile(one).evaluate(lambda name, **_: name in kind) for one in passes(suite))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "+".join(sorted(kind)) or "unmarked")
def test_all_tests_are_run_once_and_the_short_suite_leaves_out_full_alone(kind: frozenset[str]) -> None:
    assert chosen("test-all", kind) == 1
    assert chosen("test", kind) == ("full" not in kind)


def test_a_pass_is_one_of_the_cluster_or_of_the_rest() -> None:
    for suite in ("test", "test-all"):
        rest, cluster = passes(suite)
        assert not Expression.compile(rest).evaluate(lambda name, **_: name == "cluster")
        assert not Expression.compile(cluster).evaluate(lambda name, **_: False)


def test_folders_choose_the_markers(markers: Mapping[str, frozenset[str]]) -> None:
    for test, found in markers.items():
        assert ("cluster" in found) == test.startswith("tests/cluster/"), test
        assert "full" in found or not test.startswith("tests/browser/"), test


def test_no_file_is_forgotten(markers: Mapping[str, frozenset[str]], request: pytest.FixtureRequest) -> None:
    """pytest collects from tests/ alone, and every file of tests has a name that it collects."""
    if request.config.args != request.config.getini("testpaths"):
        pytest.skip("a part of the suite was asked for")
    collected = {test.partition("::")[0] for test in markers}
    files = {
        path
        for path in TESTS.rglob("*.py")
        if re.search(r"^def test_|^    def test_", path.read_text(), re.M)
    }
    run_elsewhere = {
        TESTS / "unit/kernels/triton_cases.py"
    }  # in Triton's interpreter, by test_scan_triton.py
    assert {str(path.relative_to(CHECKOUT)) for path in files - run_elsewhere} == collected
