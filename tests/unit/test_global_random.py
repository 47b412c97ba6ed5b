"""Global random generators: seeded in the block, restored after it, one thread at a time."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rwsa.global_random import seeded_globals
from rwsa.mixing.transforms import Transform, apply_transforms


def test_the_callers_state_is_restored_even_after_an_error() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()
    first = []

    def draw_and_fail() -> None:
        with seeded_globals(3):
            first.extend([random.random(), np.random.rand()])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        draw_and_fail()
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    with seeded_globals(3):
        assert [random.random(), np.random.rand()] == first


def test_threads_do_not_draw_from_each_others_seeds() -> None:
    transforms = [Transform(name="AddGaussianNoise"), Transform(name="Gain")]
    wav = np.linspace(-0.1, 0.1, 4000, dtype=np.float32)

    def applied(seed: int) -> bytes:
        return apply_transforms(transforms, wav, 16_000, seed)[0].tobytes()

    alone = [applied(seed) for seed in range(60)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(applied, range(60))) == alone
