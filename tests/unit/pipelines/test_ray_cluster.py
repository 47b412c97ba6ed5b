"""A Ray that is slow to start, or does not start, without starting one."""

from __future__ import annotations

import pytest
import ray

from pipelines.core import ray_cluster
from rwsa.errors import InputError


@pytest.mark.parametrize("failures", [0, 2])
def test_a_slow_start_is_tried_again(
    failures: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[object] = []

    def init(**options: object) -> None:
        calls.append(options)
        if len(calls) <= failures:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    ray_cluster._start(1, None, {})
    assert len(calls) == failures + 1
    assert capsys.readouterr().err.count("Ray is slow to start on this machine; trying again") == failures


@pytest.mark.parametrize(
    ("message", "attempts"), [("The current node timed out during startup.", 3), ("no\nmemory", 1)]
)
def test_a_ray_that_does_not_start_is_one_line(
    message: str, attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def init(**options: object) -> None:
        calls.append(options)
        raise RuntimeError(message)

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(InputError, match=r"Ray does not start on this machine") as refused:
        ray_cluster._start(1, None, {})
    assert len(calls) == attempts
    assert "\n" not in str(refused.value)
