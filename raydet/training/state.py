"""Everything that training changes, and therefore everything a checkpoint holds."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from raydet import models
from raydet.config import Config, override
from raydet.exceptions import ConfigError
from raydet.quantization import quantize
from raydet.training.ema import ModelEma
from raydet.training.memory import side_by_side
from raydet.training.optim import build_optimizer, freeze


@dataclass
class State:
    """A model in training and how far it has come."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: ModelEma | None
    frozen: list[nn.Module]
    sums: Tensor
    """float64: the epoch's losses so far, summed over steps."""
    epoch: int = 0
    """Epochs done."""
    epoch_steps: int = 0
    """Steps done in the epoch that is going on."""
    step: int = 0
    """Optimiser steps done in all."""
    best_score: float | None = None
    evaluations_since_best: int = 0
    skipped: int = 0
    """Steps of the epoch that is going on that were taken back, for a loss or gradient that was not finite."""
    skipped_in_row: int = 0
    """Steps that were taken back since the last that was not."""
    lr_factor: float = 1.0
    """What the schedule's learning rate is multiplied by: halved at each reload."""
    reloads: int = 0
    """How often training went back to a checkpoint because its numbers were not finite any more."""
    statistics: Tensor = field(default_factory=lambda: torch.zeros(0))
    """One after the other, the memory of BatchNorm's running means and variances."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What else travels with the weights: the configuration and the class map."""

    @property
    def evaluated(self) -> nn.Module:
        """The model that is scored: the average where there is one."""
        return self.model if self.average is None else self.average.model

    def models(self) -> list[nn.Module]:
        """Return the model, and its average where there is one."""
        return [self.model] if self.average is None else [self.model, self.average.model]

    def train(self) -> None:
        """Put the model in training mode, but for what is frozen."""
        self.model.train()
        for part in self.frozen:
            part.eval()

    def freeze_norms(self) -> None:
        """Keep the statistics of all BatchNorms as they are from now on."""
        norms = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.frozen = [*(part for part in self.frozen if part not in norms), *norms]
        for norm in norms:
            norm.eval()

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return all tensors, by file and name."""
        optim = {
            f"{index}.{name}": value
            for index, slots in self.optimizer.state_dict()["state"].items()
            for name, value in slots.items()
            if isinstance(value, Tensor)
        }
        files = {"model": dict(self.model.state_dict()), "optim": optim}
        return files if self.average is None else files | {"ema": dict(self.average.model.state_dict())}

    def record(self) -> dict[str, Any]:
        """Return all that is not a tensor, as JSON values."""
        return {
            "epoch": self.epoch,
            "epoch_steps": self.epoch_steps,
            "step": self.step,
            "best_score": self.best_score,
            "evaluations_since_best": self.evaluations_since_best,
            "skipped": self.skipped,
            "skipped_in_row": self.skipped_in_row,
            "lr_factor": self.lr_factor,
            "reloads": self.reloads,
            "sums": self.sums.tolist(),
            "scaler": self.scaler.state_dict(),
            **self.extra,
        }

    def restore(self, tensors: dict[str, dict[str, Tensor]], record: dict[str, Any]) -> None:
        """Take over what `tensors` and `record` of another State returned."""
        self.model.load_state_dict(tensors["model"])
        if self.average is not None:
            self.average.model.load_state_dict(tensors["ema"])
        slots: dict[int, dict[str, Any]] = {}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for key, value in tensors["optim"].items():
            index, name = key.split(".", 1)
            parameter = parameters[int(index)]
            if value.shape == parameter.shape:
                # Files hold row-major order; torch's fused optimisers walk parameter and slot by one stride.
                value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            slots.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self.scaler.load_state_dict(record["scaler"])
        self.sums.copy_(torch.tensor(record["sums"], dtype=torch.float64))
        for name in ("epoch", "epoch_steps", "step", "best_score", "evaluations_since_best"):
            setattr(self, name, record[name])
        self.skipped, self.skipped_in_row = record.get("skipped", 0), record.get("skipped_in_row", 0)
        self.lr_factor, self.reloads = record.get("lr_factor", 1.0), record.get("reloads", 0)

    def is_finite(self) -> bool:
        """Whether all tensors that a checkpoint would hold are finite."""
        groups = self.tensors().values()
        found = [tensor.isfinite().all() for group in groups for tensor in group.values() if tensor.is_floating_point()]
        return bool(torch.stack([one.to(self.sums.device) for one in found]).all())


def resolve_model(cfg: Config) -> Config:
    """Return `cfg` with model.image_size set, the model's name and size checked.

    Raises:
        ConfigError: no such model, a size that its levels do not divide, a section that is not for it.
    """
    try:
        size = cfg.model.image_size or models.default_image_size(cfg.model.name)
    except ValueError as error:
        raise ConfigError(f"model.name: {error}") from error
    try:
        with torch.device("meta"):  # its structure, without its memory
            model = build_model(cfg, cfg.model.num_classes or 1)
    except TypeError as error:  # a field of the other family
        raise ConfigError(f"section model: {error}") from error
    try:
        freeze(model, cfg.model.freeze)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    multiple = 1 << model.max_level if isinstance(model, models.EfficientDet) else 1
    if size % multiple:
        near = max(multiple, round(size / multiple) * multiple)
        raise ConfigError(f"model.image_size={size} must be a multiple of {multiple} for {cfg.model.name}; try {near}")
    return override(cfg, {"model.image_size": size})


def build_model(cfg: Config, num_classes: int) -> models.EfficientNet | models.EfficientDet:
    """Return the configured network with weights drawn from run.seed; its fake-quantizers, if any, have no ranges."""
    m = cfg.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.run.seed)
        model = models.build(
            m.name,
            num_classes,
            dropout=m.dropout,
            drop_path=m.drop_path,
            bn_eps=m.bn_eps,
            bn_momentum=m.bn_momentum,
            padding=m.padding,
            redundant_bias=m.redundant_bias,
            anchor_scale=m.anchor_scale,
            act=m.act,
        )
    if cfg.quantization is not None:
        quantize(model, cfg.quantization)
    return model


def new_state(cfg: Config, model: nn.Module, losses: int, device: torch.device) -> State:
    """Return the State in which training of `model` starts.

    Args:
        losses: how many losses are summed up over an epoch.
    """
    if cfg.model.sync_bn:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    channels_last = cfg.precision.memory_format == "channels_last"
    model.to(device).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    for parameter in model.parameters():
        if parameter.ndim == 4 and parameter.shape[2:] == (1, 1):
            # Both layouts are the same memory; these strides are those of its gradient, as DDP's buckets want them.
            parameter.data = parameter.data.as_strided(parameter.shape, (parameter.shape[1], 1, 1, 1))
    statistics = _in_one_piece(model, device)
    frozen = freeze(model, cfg.model.freeze)
    precision = cfg.precision
    scaler = torch.amp.GradScaler(
        device.type,
        init_scale=precision.loss_scale,
        growth_interval=precision.loss_scale_interval,
        enabled=precision.mode == "fp16",
    )
    state = State(
        model=model,
        optimizer=build_optimizer(model, cfg.optim),
        scaler=scaler,
        average=None if cfg.ema.decay is None else ModelEma(model, cfg.ema),
        frozen=frozen,
        sums=torch.zeros(losses, dtype=torch.float64, device=device),
        statistics=statistics,
    )
    if cfg.model.freeze_bn:
        state.freeze_norms()
    return state


def _in_one_piece(model: nn.Module, device: torch.device) -> Tensor:
    """Lay BatchNorm's statistics one after the other, so that one copy keeps them all; return the whole."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    buffers = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var) if buffer is not None]
    whole, places = side_by_side(buffers, device)
    for buffer, place in zip(buffers, places, strict=True):
        buffer.data = place.copy_(buffer)
    return whole
