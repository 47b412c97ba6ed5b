"""Training options. The defaults are the paper's recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from rwsa.config import as_mapping, config, config_hash
from rwsa.corpora.cards import CorpusCard, SourceFolder, Split, read_card
from rwsa.losses import LossWeights
from rwsa.metrics import Table1Metric
from rwsa.mixing.recipes import Recipe, read_recipe
from rwsa.models.config import ModelConfig
from rwsa.training.optimiser import OptimiserConfig
from rwsa.training.remix import RemixConfig
from rwsa.variables import PathText

# The limits are far above any need; beyond them memory or time runs out.
Positive = Annotated[int, Field(gt=0, le=10**12)]
NotNegative = Annotated[int, Field(ge=0, lt=2**63)]
SegmentCount = Annotated[int, Field(gt=0, le=1_000_000)]
WorkerCount = Annotated[int, Field(ge=0, le=1024)]


@config
class MixConfig:
    """Online mixing: rows of a recipe's plan are rendered during training.

    Samples and their order equal those of the shards that `pipelines.mix_shards` makes of the same card
    and recipe with the same `shard_examples`. An example that cannot be rendered is replaced, see
    `DataConfig.on_corrupt`.

    Attributes:
        card: path of the corpus card's YAML, or the card itself.
        recipe: path of the mixing recipe's YAML, or the recipe itself.
        splits: splits to mix; the others are read from `data.shards`.
        fresh: draw new training examples every epoch, seeded by the recipe's seed, the run's seed and the
            epoch. Validation examples stay the same.
        shard_examples: as in `--shard-examples`; the order depends on it.
        workers: rendering processes per training process; 0 renders in a thread of the training process.
        strict: stop at the first unusable file, or example that cannot be rendered.
    """

    card: PathText | CorpusCard
    recipe: PathText | Recipe
    splits: tuple[Split, ...] = ("train", "valid")
    fresh: bool = False
    shard_examples: SegmentCount = 64
    workers: WorkerCount = 2
    strict: bool = False


@config
class DataConfig:
    """Source of the examples: each split comes from `shards` or from `mix`.

    Attributes:
        shards: folder or URL (`s3://…`) of WebDataset shards with an `index.json`.
        mix: online mixing.
        train, valid: the splits for training and for validation.
        open_shards: shards that are shuffled together (see `rwsa.shards.sampling.Order`).
        valid_examples: maximum number of validation examples; default: all.
        train_share: share of the training examples to use, drawn once; a smaller share is a subset of a
            larger one.
        overfit: train on the first `overfit` examples of `train` and validate on the same ones, to check
            that the model can learn at all.
        prefetch_batches: batches prepared ahead of the step.
        loader_threads: threads that read and decode shards; default: 2 for a folder, 8 for an object store.
        on_corrupt: `error` stops at a missing, truncated or changed shard, and at a silent noisy file; `skip`
            replaces the example by the one before it in the epoch's order (for the first: the last), so
            that batches, ranks and cursors do not change, and counts it. A planned example that could not
            be mixed is always replaced. Validation leaves both out.
    """

    shards: PathText | None = None
    mix: MixConfig | None = None
    train: Split = "train"
    valid: Split = "valid"
    open_shards: Positive = 8
    valid_examples: Positive | None = None
    train_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    overfit: Positive | None = None
    prefetch_batches: SegmentCount = 4
    loader_threads: Annotated[int, Field(gt=0, le=1024)] | None = None
    on_corrupt: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        mixed = () if self.mix is None else self.mix.splits
        splits = (self.train, self.valid)
        if self.shards is None and (missing := [split for split in splits if split not in mixed]):
            raise ValueError(f"split '{missing[0]}' has no source; set data.shards, or add it to data.mix")
        if self.shards is not None and all(split in mixed for split in splits):
            raise ValueError("data.mix covers every split; remove data.shards, or shorten data.mix.splits")
        if unused := [split for split in mixed if split not in splits]:
            raise ValueError(f"data.mix.splits names '{unused[0]}', which is not used; remove it")


@config
class TrainConfig:
    """One training run.

    Attributes:
        name: of the run.
        seed: of the initial weights, the sample order, crops and dropout.
        global_batch_size: segments per step, over all workers.
        max_steps: step at which training ends.
        best_metric: validation metric whose maximum selects the best checkpoint.
        checkpoint_every_steps: interval of validation and checkpoint; both also run at the end.
        log_every_steps: interval of logging losses and throughput.
        valid_batch_size: segments that validation enhances at once.
        audio_every_steps: interval of logging audio and spectrograms of validation clips; also at the end.
        audio_clips: number of clips to log; 0 for none.
        keep_checkpoints: number of newest checkpoints to keep, in addition to the best.
        accumulate: gradient accumulation: parts of each worker's segments. The step stays the same, except
            that the discriminator's spectral norms get one power iteration per part.
        precision: of the network's forward pass; losses are always float32. `float32` is exact to float32 on
            every device; `tf32` lets NVIDIA GPUs round the factors of convolutions and matrix products to 10
            bits (TensorFloat-32; elsewhere it is float32); `bfloat16` and `float16` are autocast, and what
            autocast leaves in float32 is multiplied in TF32.
        compile_backend: of `torch.compile`, such as `inductor`; default: no compilation.
        average_decay: decay of an exponential moving average (EMA) of the weights, which is validated and
            published; default: no average (the paper).
        remix: remix augmentation (see `RemixConfig`); default: off (the paper).
        pesq_processes: per worker, for the discriminator's targets and for validation by PESQ.
        patience: early stopping: validations in a row without a better score; default: never.
        hang_timeout_s: seconds without progress after which workers end, to be restarted from the last
            checkpoint (`max_failures`); a collective operation waits for twice as long.
    """

    name: str
    model: ModelConfig
    data: DataConfig
    loss_weights: LossWeights = LossWeights()
    optimiser: OptimiserConfig = OptimiserConfig()
    seed: NotNegative = 0
    global_batch_size: SegmentCount = 8
    max_steps: Positive
    best_metric: Table1Metric = "pesq"
    checkpoint_every_steps: Positive = 250
    log_every_steps: Positive = 10
    valid_batch_size: SegmentCount = 8
    audio_every_steps: Positive = 2500
    audio_clips: NotNegative = 2
    keep_checkpoints: Positive = 2
    accumulate: SegmentCount = 1
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = "float32"
    compile_backend: str | None = None
    average_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    remix: RemixConfig | None = None
    pesq_processes: Annotated[int, Field(gt=0, le=1024)] = 1
    patience: Positive | None = None
    hang_timeout_s: Positive = 600


def training_hash(config: TrainConfig) -> str:
    """`config_hash` of what decides the results: MLflow runs and trials of earlier versions keep theirs."""
    values = as_mapping(config)
    del values["hang_timeout_s"]
    return config_hash(values)


def card_of(config: MixConfig) -> CorpusCard:
    """The configuration's corpus card, read from its file if it is a path."""
    return read_card(Path(config.card)) if isinstance(config.card, str) else config.card


def recipe_of(config: MixConfig) -> Recipe:
    """The configuration's recipe, read from its file if it is a path."""
    return read_recipe(Path(config.recipe)) if isinstance(config.recipe, str) else config.recipe


def self_contained(config: DataConfig) -> DataConfig:
    """The configuration with card and recipe inlined and absolute roots, for a process in another folder.

    Raises:
        InputError: the card or recipe cannot be used.
    """
    if config.mix is None:
        return config
    card = card_of(config.mix)
    roots: dict[str, Any] = {}
    for field in dataclasses.fields(card):
        value = getattr(card, field.name)
        if isinstance(value, tuple) and all(isinstance(folder, SourceFolder) for folder in value):
            roots[field.name] = tuple(
                dataclasses.replace(folder, root=str(Path(folder.root).expanduser().absolute()))
                for folder in value
            )
    mix = dataclasses.replace(
        config.mix, card=dataclasses.replace(card, **roots), recipe=recipe_of(config.mix)
    )
    return dataclasses.replace(config, mix=mix)
