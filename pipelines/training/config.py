"""Configuration of a training run: the library's training options, its storage and Ray Train's options."""

from __future__ import annotations

from pipelines.core.storage import StorageConfig
from rwsa.config import config
from rwsa.training.config import NotNegative, TrainConfig


@config
class TrainRunConfig(TrainConfig):
    """A training run with checkpoints and weights in a storage and metrics in MLflow, alone or on Ray.

    Attributes:
        storage: result folder and MLflow experiment.
        max_failures: failures of workers or nodes after which Ray Train gives up.
    """

    storage: StorageConfig = StorageConfig()
    max_failures: NotNegative = 2
