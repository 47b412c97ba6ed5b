"""The best weights of several training runs, by validation score: test scores choose nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rwsa.errors import InputError
from rwsa.files import StoragePath, sha256_of
from rwsa.training.checkpoints import Checkpoints
from rwsa.training.saved_state import AVERAGED, GENERATOR, read_saved

# Settings that two runs must have in common for their scores to be comparable.
_ALIKE = ("best_metric", "data.valid", "data.valid_examples")


@dataclass(frozen=True, kw_only=True)
class ValidatedWeights:
    """Weights with the validation score that chose them within their run.

    Attributes:
        settings: that decide what the score means; empty in runs of early versions.
    """

    weights: StoragePath
    score: float
    settings: dict[str, Any]

    @property
    def metric(self) -> str:
        return str(self.settings.get("best_metric", "score"))


def best_weights(weights: Sequence[StoragePath]) -> ValidatedWeights:
    """The weights with the highest validation score; of equal ones the first.

    Args:
        weights: `model.safetensors` of training runs, in their folders.

    Raises:
        InputError: weights are not those of a run, or runs were validated differently.
    """
    found = [validated(path) for path in weights]
    for other in found[1:]:
        for name in _ALIKE:
            values = [one.settings.get(name) for one in (found[0], other)]
            if values[0] != values[1]:
                raise InputError(
                    f"--weights: {found[0].weights} and {other.weights} were validated differently ({name}"
                    f" {values[0]} and {values[1]}), so their scores cannot be compared; register one of them"
                )
    return max(found, key=lambda one: one.score)


def validated(weights: StoragePath) -> ValidatedWeights:
    """Weights with their score, from the checkpoints beside them.

    Raises:
        InputError: there are none, they have no score, or the weights are not their best.
    """
    checkpoints = Checkpoints(weights.parent / "checkpoints")
    latest, best = checkpoints.latest(), checkpoints.best()
    if latest is None or best is None:
        raise InputError(
            f"--weights {weights}: has no checkpoints beside it, and so no validation score; of several"
            " weights, give each in the folder of its run, ROOT/runs/NAME/model.safetensors"
        )
    saved, of_best = read_saved(latest), read_saved(best)
    if saved.best_score is None:
        raise InputError(f"--weights {weights}: its run was never validated, so it has no score to compare")
    if sha256_of(weights) != of_best.files.get(AVERAGED, of_best.files.get(GENERATOR)):
        raise InputError(
            f"--weights {weights}: is not the best checkpoint of its run, {best}; run the training again,"
            " which writes it"
        )
    settings = saved.settings or {}
    alike = {name: settings[name] for name in _ALIKE if name in settings}
    return ValidatedWeights(weights=weights, score=saved.best_score, settings=alike)
