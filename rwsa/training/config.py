"""Everything that a training run is, as configuration. The defaults are the paper's recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rwsa.config import config
from rwsa.losses import LossWeights
from rwsa.models.config import ModelConfig
from rwsa.training.remix import RemixConfig

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]


@config
class DataConfig:
    """Where the shards are.

    Attributes:
        shards: folder of WebDataset shards with an `index.json`.
        train, valid: the splits to train on and to choose the best checkpoint by.
        open_shards: shards that are shuffled together (see `rwsa.sampling.Order`).
        valid_examples: validate on so many examples at the most; all by default.
        prefetch_batches: batches decoded ahead of the step.
    """

    shards: str
    train: str = "train"
    valid: str = "valid"
    open_shards: Positive = 8
    valid_examples: Positive | None = None
    prefetch_batches: Positive = 4


@config
class OptimiserConfig:
    """AdamW for generator and discriminator alike.

    Attributes:
        learning_rate: at the end of the warm-up.
        schedule: `exponential` multiplies by `decay_per_epoch` after each epoch (the paper);
            `cosine` falls to zero over `max_steps`.
        warmup_steps: steps of linear rise from zero.
        max_gradient_norm: gradients are scaled down to it; no clipping where it is absent (the paper).
    """

    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    schedule: Literal["exponential", "cosine"] = "exponential"
    decay_per_epoch: Annotated[float, Field(gt=0, le=1)] = 0.99
    warmup_steps: NotNegative = 0
    max_gradient_norm: Annotated[float, Field(gt=0)] | None = None


@config
class StorageConfig:
    """Where results go.

    Attributes:
        root: folder for runs and their checkpoints.
        tracking_uri: MLflow's address. SQLite serves one machine; give an http address on a cluster.
        experiment: MLflow experiment.
    """

    root: str = "outputs"
    tracking_uri: str = "sqlite:///outputs/mlflow.db"
    experiment: str = "rwsa"


@config
class TrainConfig:
    """One training run.

    Attributes:
        name: of the run; the same name in the same storage resumes it.
        seed: of the first weights, the sample order, crops and dropout.
        global_batch_size: segments a step, over all workers.
        max_steps: where training ends.
        best_metric: validation metric whose maximum chooses the best checkpoint.
        checkpoint_every_steps: validate and save so often, and at the end.
        log_every_steps: record losses and speed so often.
        keep_checkpoints: how many to keep, the newest and the best always among them.
        max_failures: lost workers or nodes after which Ray Train gives up.
        accumulate: parts that each worker takes its segments in, for less memory; the step stays the same.
        precision: of the network's forward pass (autocast); losses are always float32.
        compile_backend: of `torch.compile`, such as `inductor`; without it nothing is compiled.
        average_decay: of an exponential moving average of the weights, which is then what validates and
            what is published; none where it is absent (the paper).
        remix: give clips each other's noise (see `RemixConfig`); not where it is absent (the paper).
        pesq_processes: of each worker, for the discriminator's targets.
        patience: validations in a row without a better score after which training ends; endless by default.
    """

    name: str
    model: ModelConfig
    data: DataConfig
    loss_weights: LossWeights = LossWeights()
    optimiser: OptimiserConfig = OptimiserConfig()
    storage: StorageConfig = StorageConfig()
    seed: NotNegative = 0
    global_batch_size: Positive = 8
    max_steps: Positive
    best_metric: Literal["pesq", "ssnr", "estoi", "si_sdr"] = "pesq"
    checkpoint_every_steps: Positive = 250
    log_every_steps: Positive = 10
    keep_checkpoints: Positive = 2
    max_failures: NotNegative = 2
    accumulate: Positive = 1
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile_backend: str | None = None
    average_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    remix: RemixConfig | None = None
    pesq_processes: Positive = 1
    patience: Positive | None = None
