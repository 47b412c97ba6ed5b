"""Number of concurrent trials; schedulers and search algorithms are tested on Ray in tests/cluster."""

from __future__ import annotations

import pytest

from tests.sweep_rows import sweep_of
from tune.concurrent_trials import concurrent_trials


@pytest.mark.parametrize(
    ("changes", "resources", "expected"),
    [
        ({"workers": 0, "cpus_per_worker": 2}, {"CPU": 2}, 1),
        ({"workers": 2}, {"CPU": 8}, 4),
        ({"workers": 2, "concurrent_trials": 3}, {"CPU": 8}, 3),
        ({"workers": 2}, {"CPU": 64, "GPU": 4}, 2),
        ({"workers": 4}, {"CPU": 2}, 1),
        # A cluster whose GPU nodes do not exist yet.
        ({"workers": 1, "gpu": True, "concurrent_trials": 8}, {"CPU": 0}, 8),
    ],
)
def test_concurrent_trials_fill_the_cluster(
    changes: dict[str, int], resources: dict[str, float], expected: int
) -> None:
    assert concurrent_trials(sweep_of(**changes), resources) == expected
