"""Everything that a training run is, as configuration. The defaults are the paper's recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rwsa.config import config
from rwsa.corpora.cards import CorpusCard, Split
from rwsa.losses import LossWeights
from rwsa.metrics import Table1Metric
from rwsa.mixing.recipes import Recipe
from rwsa.models.config import ModelConfig
from rwsa.training.remix import RemixConfig

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]


@config
class MixConfig:
    """Mixing while training: the rows of a recipe's plan are rendered when they are due.

    The samples and their order are those of the shards that `pipelines.mix_shards` makes of the same card
    and recipe with the same `shard_examples`. An example that cannot be made is replaced as `DataConfig`
    says.

    Attributes:
        card: YAML of the corpus card, or the card itself.
        recipe: YAML of the mixing recipe, or the recipe itself.
        splits: those that are mixed; the others are read from `data.shards`.
        fresh: draw every epoch's training examples anew, from a seed that follows from the recipe's seed,
            the run's and the epoch; so none is ever repeated. Validation stays the same.
        shard_examples: as in `--shard-examples`; the order depends on it.
        workers: processes that render, beside each training process; 0 renders in a thread of it.
        strict: end at the first unusable file, or example that cannot be made.
    """

    card: str | CorpusCard
    recipe: str | Recipe
    splits: tuple[Split, ...] = ("train", "valid")
    fresh: bool = False
    shard_examples: Positive = 64
    workers: NotNegative = 2
    strict: bool = False


@config
class DataConfig:
    """Where the examples come from: every split from `shards` or from `mix`.

    Attributes:
        shards: folder or URL (`s3://…`) of WebDataset shards with an `index.json`.
        mix: mix while training instead.
        train, valid: the splits to train on and to choose the best checkpoint by.
        open_shards: shards that are shuffled together (see `rwsa.shards.sampling.Order`).
        valid_examples: validate on so many examples at the most; all by default.
        train_share: of the training examples, drawn once and for all; a smaller share is part of a larger.
        overfit: train on the first so many examples of `train`, always the same, and validate by them, to
            see whether the model can learn them at all.
        prefetch_batches: batches made ready ahead of the step.
        loader_threads: that read and decode shards; by default 2 from a folder, 8 from a store, where
            each mostly waits.
        on_corrupt: `error` ends the run at a shard that is missing, cut short or changed, or at a noisy file
            that is silent; `skip` puts the sample before it in the epoch's order in its place (before the
            first, the last), so that batches, ranks and cursors stay as they are, and counts it. A planned
            example that could not be mixed is always replaced so; validation leaves both out.
    """

    shards: str | None = None
    mix: MixConfig | None = None
    train: Split = "train"
    valid: Split = "valid"
    open_shards: Positive = 8
    valid_examples: Positive | None = None
    train_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    overfit: Positive | None = None
    prefetch_batches: Positive = 4
    loader_threads: Positive | None = None
    on_corrupt: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        mixed = () if self.mix is None else self.mix.splits
        splits = (self.train, self.valid)
        if self.shards is None and (unread := [split for split in splits if split not in mixed]):
            raise ValueError(f"nothing gives split '{unread[0]}'; set data.shards, or name it in data.mix")
        if self.shards is not None and all(split in mixed for split in splits):
            raise ValueError("data.mix gives every split; drop data.shards, or shorten data.mix.splits")
        if unused := [split for split in mixed if split not in splits]:
            raise ValueError(f"data.mix.splits names '{unused[0]}', which is not used here; leave it out")


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
class TrainConfig:
    """One training run.

    Attributes:
        name: of the run.
        seed: of the first weights, the sample order, crops and dropout.
        global_batch_size: segments a step, over all workers.
        max_steps: where training ends.
        best_metric: validation metric whose maximum chooses the best checkpoint.
        checkpoint_every_steps: validate and save so often, and at the end.
        log_every_steps: record losses and speed so often.
        valid_batch_size: segments that validation enhances at once.
        audio_every_steps: record audio and spectrograms of validation clips so often, and at the end.
        audio_clips: of how many clips; 0 for none.
        keep_checkpoints: how many of the newest to keep; the best is kept besides.
        accumulate: parts that each worker takes its segments in, for less memory. The step stays the same,
            but for the discriminator's spectral norms, which get one more power iteration for each part.
        precision: of the network's forward pass (autocast); losses are always float32.
        compile_backend: of `torch.compile`, such as `inductor`; without it nothing is compiled.
        average_decay: of an exponential moving average of the weights, which is then what validates and
            what is published; none where it is absent (the paper).
        remix: give clips each other's noise (see `RemixConfig`); not where it is absent (the paper).
        pesq_processes: of each worker, for the discriminator's targets and for validation by PESQ.
        patience: validations in a row without a better score after which training ends; endless by default.
    """

    name: str
    model: ModelConfig
    data: DataConfig
    loss_weights: LossWeights = LossWeights()
    optimiser: OptimiserConfig = OptimiserConfig()
    seed: NotNegative = 0
    global_batch_size: Positive = 8
    max_steps: Positive
    best_metric: Table1Metric = "pesq"
    checkpoint_every_steps: Positive = 250
    log_every_steps: Positive = 10
    valid_batch_size: Positive = 8
    audio_every_steps: Positive = 2500
    audio_clips: NotNegative = 2
    keep_checkpoints: Positive = 2
    accumulate: Positive = 1
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile_backend: str | None = None
    average_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    remix: RemixConfig | None = None
    pesq_processes: Positive = 1
    patience: Positive | None = None
