"""Everything that a training run must remember, saved atomically and loaded strictly.

A checkpoint (rwsa.training.checkpoints) is a folder: `generator.safetensors` (loadable by `rwsa.load_model`),
`averaged.safetensors` (likewise; where weights are averaged), `state.safetensors` (discriminator, both
optimisers, and the pair that waits for the discriminator), `state.json` (step, sample cursor, best score,
identities, and the hashes of the other files, by which a damaged one is known). The learning rate follows
from the step, and whatever is drawn is keyed by step and sample, so there is no random state to keep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rwsa.config import config_hash
from rwsa.errors import InputError
from rwsa.files import read_json, sha256_of, write_json
from rwsa.models.discriminator import MetricDiscriminator
from rwsa.models.weights import (
    Network,
    build_model,
    load_weights,
    read_weights,
    save_model,
    weights_of,
    write_tensors,
)
from rwsa.shards.sampling import Cursor
from rwsa.training.checkpoints import ABOUT
from rwsa.training.config import OptimiserConfig, TrainConfig

AVERAGED = "averaged.safetensors"
_NOTHING: Mapping[str, Tensor] = MappingProxyType({})


def published_weights(checkpoint: Path) -> Path:
    """The file in a checkpoint that is to be used: the averaged weights where there are any."""
    averaged = checkpoint / AVERAGED
    return averaged if averaged.is_file() else checkpoint / "generator.safetensors"


class TrainState:
    """Models, optimisers, the step, the sample cursor and the best score so far.

    `pending` is the pair that a loaded checkpoint had for the discriminator's next step.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config = config
        self.generator: Network = build_model(config.model, seed=config.seed).to(device)
        self.discriminator: MetricDiscriminator | None = None
        if config.loss_weights.metric > 0:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                self.discriminator = MetricDiscriminator().to(device)
        self.generator_optimiser = _adamw(self.generator, config.optimiser)
        self.discriminator_optimiser = (
            None if self.discriminator is None else _adamw(self.discriminator, config.optimiser)
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

    @property
    def published(self) -> Network:
        """The network that validates and is published: the average of the weights where one is kept."""
        return self.generator if self.averaged is None else cast(Network, self.averaged.module)

    @property
    def done(self) -> bool:
        """Whether training ends here: all steps are taken, or patience is."""
        patience = self.config.patience
        tired = patience is not None and self.validations_since_best >= patience
        return tired or self.step >= self.config.max_steps

    def average(self) -> None:
        """Take the generator's present weights into the average, if one is kept."""
        if self.averaged is not None:
            self.averaged.update_parameters(self.generator)

    def scored(self, score: float) -> None:
        """Take in the score of a validation of the present step."""
        self.score = score
        if score > self.best_score:
            self.best_score, self.best_step, self.validations_since_best = score, self.step, 0
        else:
            self.validations_since_best += 1

    def forget_best(self) -> None:
        """Let the next validation be the best so far."""
        self.best_score, self.best_step = -math.inf, None

    def set_learning_rate(self) -> float:
        """Give both optimisers the learning rate of the present step; returns it."""
        rate = learning_rate(
            self.config.optimiser, self.step, epoch=self.cursor.epoch, max_steps=self.config.max_steps
        )
        for optimiser in self._optimisers().values():
            for group in optimiser.param_groups:
                group["lr"] = rate
        return rate

    def save(self, folder: Path, *, order_identity: str, pending: Mapping[str, Tensor] = _NOTHING) -> None:
        """Write a checkpoint into `folder`; `pending` is what `Adversary.pending` gives.

        Raises:
            InputError: it cannot be written.
        """
        save_model(folder / "generator.safetensors", self.generator, {"step": self.step})
        tensors = {
            f"{name}.{key}": tensor
            for name, optimiser in self._optimisers().items()
            for key, tensor in _optimiser_tensors(optimiser).items()
        }
        if self.discriminator is not None:
            tensors |= {f"discriminator.{k}": v for k, v in weights_of(self.discriminator).items()}
        tensors |= {f"pending.{name}": tensor for name, tensor in pending.items()}
        write_tensors(folder / "state.safetensors", tensors)
        if self.averaged is not None:
            save_model(folder / AVERAGED, self.published, {"step": self.step})
        write_json(
            folder / ABOUT,
            {
                "files": {path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))},
                "step": self.step,
                "cursor": {"epoch": self.cursor.epoch, "sample": self.cursor.sample},
                "best_score": self.best_score if math.isfinite(self.best_score) else None,
                "best_step": self.best_step,
                "score": self.score,
                "validations_since_best": self.validations_since_best,
                "scaler": self.scaler.state_dict(),
                "stepped": [name for name, optimiser in self._optimisers().items() if optimiser.state],
                "averaged": None if self.averaged is None else int(self.averaged.n_averaged),
                "order": order_identity,
                "model": config_hash(self.config.model),
                "loss_weights": config_hash(self.config.loss_weights),
            },
        )

    def load(self, folder: Path, *, order_identity: str) -> None:
        """Restore a checkpoint.

        Raises:
            InputError: a file is damaged; it is of another model, other loss weights or other data, or a
                tensor is missing, left over or misshapen.
        """
        about = read_json(folder / ABOUT)
        check_files(folder)
        for key, mine in (
            ("order", order_identity),
            ("model", config_hash(self.config.model)),
            ("loss_weights", config_hash(self.config.loss_weights)),
        ):
            if about.get(key) != mine:
                raise InputError(
                    f"{folder}: was saved with another '{key}' ({about.get(key)}, now {mine});"
                    " give the run another name, or the configuration it was started with"
                )
        load_weights(self.generator, read_weights(folder / "generator.safetensors"), where=str(folder))
        tensors = load_file(folder / "state.safetensors")
        parts = {*self._optimisers(), *(() if self.discriminator is None else ("discriminator", "pending"))}
        if unknown := sorted(name for name in tensors if name.split(".")[0] not in parts):
            raise InputError(f"{folder}: state.safetensors holds unexpected {', '.join(unknown)}")
        if self.discriminator is not None:
            load_weights(self.discriminator, _part(tensors, "discriminator"), where=str(folder))
        for name, optimiser in self._optimisers().items():
            if name in about["stepped"]:  # before its first step an optimiser has nothing to remember
                _restore_optimiser(optimiser, _part(tensors, name), where=f"{folder}: {name}")
        self._load_average(folder, about["averaged"])
        if about["scaler"]:  # of a run in float16
            self.scaler.load_state_dict(about["scaler"])
        self.pending = self._checked_pending(_part(tensors, "pending"), folder)
        self.validations_since_best, self.best_step = about["validations_since_best"], about["best_step"]
        self.step = about["step"]
        self.cursor = Cursor(**about["cursor"])
        self.best_score = -math.inf if about["best_score"] is None else about["best_score"]

    def _checked_pending(self, pending: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
        batch = self.config.global_batch_size
        if pending and pending.keys() != {"clean", "enhanced", "target"}:
            raise InputError(f"{folder}: the discriminator's next pair has the parts {sorted(pending)}")
        for name, tensor in pending.items():
            if len(tensor) != batch:
                raise InputError(
                    f"{folder}: the discriminator's next pair ({name}) holds {len(tensor)} segments, and"
                    f" global_batch_size is now {batch}; set it back, or give the run another name"
                )
        return pending

    def _load_average(self, folder: Path, averaged: int | None) -> None:
        if (averaged is None) != (self.averaged is None):
            kept = "none" if averaged is None else "one"
            raise InputError(
                f"{folder}: was saved with {kept} average of the weights (average_decay); give the run"
                " another name, or the configuration it was started with"
            )
        if self.averaged is not None and averaged is not None:
            path = folder / AVERAGED
            load_weights(self.averaged.module, read_weights(path), where=str(path))
            self.averaged.n_averaged.fill_(averaged)

    def _optimisers(self) -> dict[str, torch.optim.AdamW]:
        found = {"generator_optimiser": self.generator_optimiser}
        if self.discriminator_optimiser is not None:
            found["discriminator_optimiser"] = self.discriminator_optimiser
        return found


def learning_rate(config: OptimiserConfig, step: int, *, epoch: int, max_steps: int) -> float:
    """The learning rate of a step: a pure function, so that resuming needs nothing saved."""
    rate = config.learning_rate * min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * min(step / max_steps, 1.0)))
    return rate * config.decay_per_epoch**epoch


def check_files(folder: Path) -> None:
    """Make sure that a checkpoint's files are as they were written.

    Raises:
        InputError: one is not.
    """
    for name, sha256 in read_json(folder / ABOUT)["files"].items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != sha256:
            raise InputError(
                f"{path}: damaged or missing ({ABOUT} beside it has another SHA-256); delete {folder}, to go"
                " on from the checkpoint before"
            )


def _adamw(model: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimiser.state_dict()["state"]
    return {f"{index}.{key}": tensor for index, slots in state.items() for key, tensor in slots.items()}


def _restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], *, where: str) -> None:
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    expected = {
        f"{i}.{key}": torch.Size() if key == "step" else parameter.shape
        for i, parameter in enumerate(parameters)
        for key in ("step", "exp_avg", "exp_avg_sq")
    }
    wrong = sorted(tensors.keys() ^ expected.keys())
    if wrong:
        raise InputError(f"{where}: does not fit; missing or left over: {', '.join(wrong)}")
    misshapen = [name for name, shape in expected.items() if tensors[name].shape != shape]
    if misshapen:
        raise InputError(f"{where}: does not fit; of another shape: {', '.join(misshapen)}")
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
