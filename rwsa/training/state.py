"""State of a training run: models, optimisers, step and sample cursor; saved and strictly loaded.

Files of a checkpoint (rwsa.training.checkpoints):
- `generator.safetensors`: loadable by `rwsa.load_model`;
- `averaged.safetensors`: the same for the EMA weights, if enabled;
- `state.safetensors`: discriminator, both optimisers, and the discriminator's pending pair;
- `state.json`: step, sample cursor, best score, settings and hashes, and the SHA-256 of the other files.

The learning rate is a function of the step, and random draws are keyed by step and sample, so there is no
scheduler or random state to save.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar, cast

import torch
from safetensors import safe_open
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rwsa.config import config_hash
from rwsa.errors import InputError
from rwsa.files import sha256_of, write_json
from rwsa.models.build import Network, build_model
from rwsa.models.discriminator import MetricDiscriminator
from rwsa.models.weight_files import utf8_path
from rwsa.models.weights import (
    check_finite,
    load_weights,
    read_weights,
    save_model,
    weights_of,
    write_tensors,
)
from rwsa.shards.sampling import Cursor
from rwsa.training.checkpoints import STATE_FILE, DamagedCheckpointError
from rwsa.training.config import TrainConfig
from rwsa.training.optimiser import adamw, learning_rate, optimiser_tensors, restore_optimiser
from rwsa.training.saved_state import (
    AVERAGED,
    GENERATOR,
    TENSORS,
    SavedState,
    changed_settings,
    damage,
    listed,
    read_saved,
    settings_of,
    verify_files,
)

_NOTHING: Mapping[str, Tensor] = MappingProxyType({})
_ALL = slice(None)
T = TypeVar("T")


def published_weights(checkpoint: Path) -> Path:
    """A checkpoint's weights for inference: the EMA weights if saved, otherwise the generator's."""
    averaged = checkpoint / AVERAGED
    return averaged if averaged.is_file() else checkpoint / GENERATOR


class TrainState:
    """Models, optimisers, step, sample cursor and best score.

    `pending` is this rank's part of the discriminator's pending pair of a loaded checkpoint, `changed` the
    settings that differ from its own.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config = config
        self.generator: Network = build_model(config.model, seed=config.seed).to(device)
        self.discriminator: MetricDiscriminator | None = None
        if config.loss_weights.metric > 0:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(config.seed)  # not those of GPUs
                self.discriminator = MetricDiscriminator().to(device)
        self.generator_optimiser = adamw(self.generator, config.optimiser)
        self.discriminator_optimiser = (
            None if self.discriminator is None else adamw(self.discriminator, config.optimiser)
        )
        self.averaged: AveragedModel | None = None
        if config.average_decay is not None:
            decay = get_ema_multi_avg_fn(config.average_decay)
            self.averaged = AveragedModel(self.generator, multi_avg_fn=decay)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self.pending: dict[str, Tensor] = {}
        self.step = 0
        self.cursor = Cursor()
        self.best_score = -math.inf
        self.best_step: int | None = None
        self.score: float | None = None
        self.validations_since_best = 0
        self.changed: dict[str, str] = {}

    @property
    def published(self) -> Network:
        """The network to validate and publish: the EMA if enabled, otherwise the generator."""
        return self.generator if self.averaged is None else cast(Network, self.averaged.module)

    @property
    def done(self) -> bool:
        """Whether training is complete: `max_steps` reached, or `patience` exhausted."""
        patience = self.config.patience
        stopped_early = patience is not None and self.validations_since_best >= patience
        return stopped_early or self.step >= self.config.max_steps

    def update_average(self) -> None:
        """Update the EMA of the generator's weights, if enabled."""
        if self.averaged is not None:
            self.averaged.update_parameters(self.generator)

    def record_score(self, score: float) -> None:
        """Record the validation score of the current step."""
        self.score = score
        if score > self.best_score:
            self.best_score, self.best_step, self.validations_since_best = score, self.step, 0
        else:
            self.validations_since_best += 1

    def reset_best(self) -> None:
        """Discard the best score, so that the next validation becomes the best."""
        self.best_score, self.best_step = -math.inf, None

    def set_learning_rate(self) -> float:
        """Set both optimisers' learning rate for the current step; returns it."""
        rate = learning_rate(
            self.config.optimiser, self.step, epoch=self.cursor.epoch, max_steps=self.config.max_steps
        )
        for optimiser in self.optimisers().values():
            for group in optimiser.param_groups:
                group["lr"] = rate
        return rate

    def save(self, folder: Path, *, order_identity: str, pending: Mapping[str, Tensor] = _NOTHING) -> None:
        """Write a checkpoint into `folder`; `pending` is from `Adversary.pending`.

        Raises:
            InputError: it cannot be written.
        """
        save_model(folder / GENERATOR, self.generator, {"step": self.step})
        tensors = {
            f"{name}.{key}": tensor
            for name, optimiser in self.optimisers().items()
            for key, tensor in optimiser_tensors(optimiser).items()
        }
        if self.discriminator is not None:
            tensors |= {f"discriminator.{k}": v for k, v in weights_of(self.discriminator).items()}
        tensors |= {f"pending.{name}": tensor for name, tensor in pending.items()}
        write_tensors(folder / TENSORS, tensors)
        if self.averaged is not None:
            save_model(folder / AVERAGED, self.published, {"step": self.step})
        write_json(
            folder / STATE_FILE,
            {
                "files": {path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))},
                "step": self.step,
                "cursor": {"epoch": self.cursor.epoch, "sample": self.cursor.sample},
                "best_score": self.best_score if math.isfinite(self.best_score) else None,
                "best_step": self.best_step,
                "score": self.score,
                "validations_since_best": self.validations_since_best,
                "scaler": self.scaler.state_dict(),
                "stepped": [name for name, optimiser in self.optimisers().items() if optimiser.state],
                "averaged": None if self.averaged is None else int(self.averaged.n_averaged),
                "order": order_identity,
                "model": config_hash(self.config.model),
                "loss_weights": config_hash(self.config.loss_weights),
                "settings": settings_of(self.config),
            },
        )

    def load(self, folder: Path, *, order_identity: str, share: slice = _ALL) -> None:
        """Load a checkpoint; of the pending pair only this rank's `share` of the global batch.

        Raises:
            DamagedCheckpointError: a file is missing or damaged, or a tensor missing, unexpected, of the
                wrong shape or not finite; what was loaded before must not be used.
            InputError: model, loss weights or data differ.
        """
        saved = read_saved(folder)
        verify_files(folder, saved)
        self.changed = changed_settings(saved, self.config)
        self._refuse_other(saved, folder, order_identity)
        with damage(folder):
            generator = read_weights(folder / GENERATOR)
            check_finite(generator, where=str(folder / GENERATOR))
            with utf8_path(folder / TENSORS) as path, safe_open(path, "pt") as file:
                names = {name: name.startswith("pending.") for name in file.keys()}  # noqa: SIM118
                tensors = {name: file.get_tensor(name) for name, waits in names.items() if not waits}
                slices = {name: file.get_slice(name) for name, waits in names.items() if waits}
                shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
                self._check_pending(_part(shapes, "pending"), folder)
                pending = _part({name: part[share] for name, part in slices.items()}, "pending")
        with damage(folder):
            self._load_tensors(saved, folder, generator, tensors)
        self.pending, self.step, self.cursor = pending, saved.step, Cursor(**vars(saved.cursor))
        self.validations_since_best, self.best_step = saved.validations_since_best, saved.best_step
        self.best_score = -math.inf if saved.best_score is None else saved.best_score
        if "best_metric" in self.changed:
            self.reset_best()

    def _refuse_other(self, saved: SavedState, folder: Path, order_identity: str) -> None:
        changed = listed(self.changed)
        for key, before, now in (
            ("order", saved.order, order_identity),
            ("model", saved.model, config_hash(self.config.model)),
            ("loss_weights", saved.loss_weights, config_hash(self.config.loss_weights)),
        ):
            if before != now:
                raise InputError(
                    f"{folder}: was saved with another '{key}' ({changed or f'{before}, now {now}'});"
                    " give the run another name, or the configuration it was started with"
                )
        if (saved.averaged is None) != (self.averaged is None):
            with_or_without = "without" if saved.averaged is None else "with"
            raise InputError(
                f"{folder}: was saved {with_or_without} an average of the weights (average_decay); give the"
                " run another name, or the configuration it was started with"
            )

    def _load_tensors(
        self, saved: SavedState, folder: Path, generator: dict[str, Tensor], tensors: dict[str, Tensor]
    ) -> None:
        load_weights(self.generator, generator, where=str(folder))
        parts = {*self.optimisers(), *(() if self.discriminator is None else ("discriminator", "pending"))}
        if unknown := sorted(name for name in tensors if name.split(".")[0] not in parts):
            raise InputError(f"{folder}: {TENSORS} holds unexpected {', '.join(unknown[:3])}")
        if self.discriminator is not None:
            load_weights(self.discriminator, _part(tensors, "discriminator"), where=str(folder))
        for name, optimiser in self.optimisers().items():
            optimiser.state.clear()
            if name in saved.stepped:  # before its first step an optimiser has no state
                restore_optimiser(optimiser, _part(tensors, name), where=f"{folder}: {name}")
        if self.averaged is not None and saved.averaged is not None:
            path = folder / AVERAGED
            load_weights(self.averaged.module, read_weights(path), where=str(path))
            self.averaged.n_averaged.fill_(saved.averaged)
        if saved.scaler:  # float16 only
            self.scaler.load_state_dict(saved.scaler)

    def _check_pending(self, shapes: dict[str, tuple[int, ...]], folder: Path) -> None:
        batch = self.config.global_batch_size
        if shapes and shapes.keys() != {"clean", "enhanced", "target"}:
            raise DamagedCheckpointError(f"{folder}: the discriminator's pending pair lacks a part")
        for name, shape in shapes.items():
            if not shape:
                raise DamagedCheckpointError(f"{folder}: the discriminator's pending {name} has no segments")
            if shape[0] != batch:
                raise InputError(
                    f"{folder}: the discriminator's pending pair ({name}) has {shape[0]} segments, and"
                    f" global_batch_size is now {batch}; set it back, or give the run another name"
                )

    def optimisers(self) -> dict[str, torch.optim.AdamW]:
        """Both optimisers by their names in a checkpoint."""
        optimisers = {"generator_optimiser": self.generator_optimiser}
        if self.discriminator_optimiser is not None:
            optimisers["discriminator_optimiser"] = self.discriminator_optimiser
        return optimisers


def _part(tensors: dict[str, T], name: str) -> dict[str, T]:
    return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
