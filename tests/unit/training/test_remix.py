"""Remix augmentation: other clips' noise at a new SNR."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rwsa.errors import InputError
from rwsa.training.context import LocalContext
from rwsa.training.remix import Remix, RemixConfig
from tests.tensors import normal

BATCH, SAMPLES = 6, 4000


def remix(**changes: float) -> Remix:
    context = LocalContext.__new__(LocalContext)
    context.rank, context.world_size = 0, 1
    return Remix(RemixConfig(**changes), context, seed=3, global_batch_size=BATCH)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    clean, noise = normal(BATCH, SAMPLES), 0.3 * normal(BATCH, SAMPLES, seed=1)
    return clean + noise, clean, noise


def rms(wav: Tensor) -> Tensor:
    return wav.square().mean(1).sqrt()


def test_noises_are_permuted_and_mixed_at_an_snr_in_range() -> None:
    noisy, clean, noise = batch()
    mixed, target = remix(min_snr_db=-5, max_snr_db=15)(noisy, clean, step=7)
    torch.testing.assert_close(rms(mixed), torch.ones(BATCH))
    added = mixed - target
    # Identify each noise by cosine similarity.
    similarity = torch.nn.functional.normalize(added, dim=1) @ torch.nn.functional.normalize(noise, dim=1).T
    assert sorted(similarity.argmax(1).tolist()) == list(range(BATCH))
    assert (similarity.max(1).values > 0.999).all()
    snr_db = 20 * torch.log10(rms(target) / rms(added))
    assert ((snr_db > -5.01) & (snr_db < 15.01)).all()
    assert snr_db.max() - snr_db.min() > 1
    parallel = torch.nn.functional.cosine_similarity(target, clean, dim=1)
    torch.testing.assert_close(parallel, torch.ones(BATCH))


def test_a_step_is_reproducible_and_differs_from_other_steps() -> None:
    noisy, clean, _ = batch()
    one, again, other = (remix()(noisy, clean, step=step)[0] for step in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_unselected_and_silent_clips_are_unchanged() -> None:
    noisy, clean, _ = batch()
    noisy[0] = clean[0] = 0
    mixed, target = remix(share=0.5)(noisy, clean, step=0)
    same = (mixed == noisy).all(1)
    assert same[0]
    assert 1 < int(same.sum()) < BATCH
    assert torch.equal(target[same], clean[same])


def test_a_reversed_snr_range_is_refused() -> None:
    with pytest.raises(InputError, match=r"max_snr_db 0\.0 is below min_snr_db 5\.0"):
        remix(min_snr_db=5, max_snr_db=0)
