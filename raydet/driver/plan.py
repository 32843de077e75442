"""A run before it starts: its configuration resolved, its data opened, its folder claimed. Nothing here starts Ray.

All that can be wrong is found here, before a machine is taken and before anything is written.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raydet.config import Config, as_flat, override
from raydet.data.image_checks import quick_look
from raydet.data.images.dali_decoder import check_installed
from raydet.data.open_data import open_data
from raydet.data.storage.address import is_remote, parse
from raydet.driver.continued_run import continued
from raydet.driver.lone_images import check_lone_images
from raydet.exceptions import ConfigError, one_line
from raydet.models import weights
from raydet.quantization import in_words
from raydet.runs import checkpoint_store
from raydet.runs.layout import CHECKPOINTS
from raydet.runs.result import read_result
from raydet.tasks.base import pixel_statistics
from raydet.training.resume import as_weights_want, built_otherwise, load_weights, other_classes
from raydet.training.state import build_model, resolve_model

_MOST_NOTES = 3


@dataclass(frozen=True)
class Plan:
    """A run that can start."""

    cfg: Config
    """Resolved: absolute paths, image size, classes, and the global batch of a continued run."""
    folder: Path
    """The run's folder."""
    train_images: int
    steps_per_epoch: int
    val_images: int
    classes: list[str]
    class_ids: list[int]
    """The data set's id of each class."""
    notes: list[str]
    """What was accepted, repaired or left out of the data."""
    loaded: tuple[weights.LoadReport, ...] = ()
    """What the weights asked for will change in the fresh model."""
    continues: checkpoint_store.Checkpoint | None = None
    """The checkpoint that training goes on from."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Training images that are not trained on, by why."""

    @property
    def finished(self) -> bool:
        """Whether this run is already over."""
        result = read_result(self.folder)
        return result is not None and self.continues is not None and result["step"] == self.continues.step


def make_plan(cfg: Config, *, fresh: bool = False) -> Plan:
    """Return the plan of a run, with everything checked that can be without a worker.

    Args:
        fresh: the run does not go on from what lies under its name, which may have had another configuration.

    Raises:
        ConfigError: a value that cannot be used, or another configuration under this run's name. DataError: the data.
        WeightsError: weights that do not fit or cannot be read.
    """
    check_installed(cfg)
    cfg = resolve_model(absolute(cfg))
    folder = Path(cfg.run.storage_path) / cfg.run.name
    begins = fresh or (not (folder / "config.json").exists() and not (folder / CHECKPOINTS).is_dir())
    cfg = cfg if fresh else continued(cfg, folder)
    if begins:
        _check_weights(cfg)
        cfg = as_weights_want(cfg)
    data = open_data(cfg, ("train", "val")).check()
    train_index, val_index = data.splits["train"], data.splits["val"]
    for index in (train_index, val_index):
        quick_look(cfg, index)
    classes = train_index.num_classes
    if cfg.model.num_classes not in (None, classes):
        raise ConfigError(
            f"model.num_classes={cfg.model.num_classes}, but data.train={cfg.data.train} has {classes} "
            f"({', '.join(n for n in list(train_index.class_names)[:5] if n)}, ...). "
            f"Set model.num_classes to {classes} or none"
        )
    cfg = override(cfg, {"model.num_classes": classes})
    continues = checkpoint_store.newest(folder / CHECKPOINTS) if (folder / CHECKPOINTS).is_dir() else None
    loaded: tuple[weights.LoadReport, ...] = ()
    if continues is None and (cfg.model.weights is not None or cfg.model.backbone_weights is not None):
        model = build_model(cfg, classes)
        names = train_index.class_names
        loaded = tuple(
            replace(r, notes=(*r.notes, *built_otherwise(model, r.path), *other_classes(names, r)))
            for r in load_weights(cfg, model)
        )
    images = data.train_images
    batch = cfg.global_batch
    if batch < cfg.scaling.worker_range[1]:
        raise ConfigError(
            f"scaling.num_workers={cfg.scaling.num_workers}: a global batch of {batch} images leaves some workers "
            "without one; lower it, or raise optim.batch_size"
        )
    steps = images // batch if cfg.data.drop_last else -(-images // batch)
    if steps == 0:
        raise ConfigError(
            f"the global batch of {batch} images is more than the {images} training images and data.drop_last=true: "
            "not one step. Lower optim.batch_size or data.batch_size"
        )
    names = [str(name) for name in train_index.class_names]
    ids = train_index.category_ids.tolist()
    check_lone_images(cfg, classes)
    return Plan(cfg, folder, images, steps, len(val_index), names, ids, data.notes, loaded, continues, data.left_out)


def _check_weights(cfg: Config) -> None:
    if cfg.quantization is not None and cfg.model.weights is None:
        raise ConfigError(
            "model.weights=none: quantization-aware training starts from a trained model; set model.weights to its "
            "checkpoint, run folder or file, or quantization to none"
        )
    for key in ("model.weights", "model.backbone_weights"):
        value = as_flat(cfg)[key]
        if value is not None and weights.files.is_path(value) and not Path(value).exists():
            raise ConfigError(f"{key}: no such file or folder: {value}")


def absolute(cfg: Config) -> Config:
    """Return `cfg` with paths resolved against the working directory, which is another one in workers.

    Raises:
        ConfigError: a path that cannot be used, credentials in data.root, a relative path in a Ray job.
    """
    if is_remote(cfg.data.root):
        parse(cfg.data.root)  # refuses credentials in it before anything shows or keeps them
    changes: dict[str, Any] = {}
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # set for the entrypoint of `ray job submit`
    for key in ("run.storage_path", "data.root", "data.quarantine", "model.weights", "model.backbone_weights"):
        value = as_flat(cfg)[key]
        if value is not None and key == "run.storage_path" and "://" in value:
            raise ConfigError(f"{key} must be a folder that all workers see, got {value}")
        if value is None or not weights.files.is_path(value):
            continue
        path = Path(value).expanduser()
        if in_job and not path.is_absolute():
            raise ConfigError(
                f"{key} must be absolute in a Ray job, whose working directory is a temporary copy; got {value!r}"
            )
        changes[key] = str(path.absolute())
    return override(cfg, changes)


def describe_start(plan: Plan) -> list[str]:
    """Return lines for people: what is trained on what, from what."""
    cfg, c = plan.cfg, plan.continues
    size = cfg.model.image_size
    lines = [
        f"run       {plan.folder}",
        f"model     {cfg.model.name} at {size} px, {len(plan.classes)} classes",
        f"data      {_data(plan)} in {cfg.data.root}",
        f"classes   {_class_map(plan)}",
        f"train     {_training(plan)}",
    ]
    lines += [f"note      {one_line(note, 220)}" for note in plan.notes[:_MOST_NOTES]]
    if len(plan.notes) > _MOST_NOTES:
        lines.append(f"note      {len(plan.notes) - _MOST_NOTES} more; `raydet check` shows all")
    if cfg.quantization is not None:
        lines.append(f"INT8      {in_words(cfg.quantization)}")
    lines += [str(report) for report in plan.loaded]
    if plan.loaded:
        lines.append(f"input     {_input_of(cfg)}")
    elif c is None:
        lines.append("weights   none: the network starts from random weights")
    if c is not None:
        lines.append(f"continue  after epoch {c.epoch}, step {c.step}, from {c.path.name}")
    return lines


def _input_of(cfg: Config) -> str:
    """What goes with the weights: the pixels they want, padding, BatchNorm's eps."""
    mean, std = (", ".join(f"{value:g}" for value in values) for values in pixel_statistics(cfg))
    names = [name for name in ("padding", "bn_eps") if getattr(cfg.model, name) is not None]
    return "; ".join([f"data.mean {mean}", f"data.std {std}", *(f"model.{n}={getattr(cfg.model, n)}" for n in names)])


def _training(plan: Plan) -> str:
    epochs, steps = plan.cfg.schedule.total_epochs, plan.steps_per_epoch
    return f"{epochs} epochs of {steps} steps of {plan.cfg.global_batch} images, {epochs * steps} steps in all"


def _data(plan: Plan) -> str:
    left_out = ", ".join(f"{count} {why}" for why, count in plan.left_out.items())
    every = plan.train_images + sum(plan.left_out.values())
    training = f"{plan.train_images} of {every} training ({left_out} left out)" if left_out else f"{every} training"
    return f"{training} and {plan.val_images} validation images"


def _class_map(plan: Plan, most: int = 10) -> str:
    """The data set's id and name of each class, in order; gaps of data.class_ids=raw are left out."""
    named = [(i, name) for i, name in zip(plan.class_ids, plan.classes, strict=True) if name]
    shown = ", ".join(f"{one_line(name, 30)}" + f" ({i})" * (plan.cfg.task == "detection") for i, name in named[:most])
    return shown + (f" and {len(named) - most} more, in classes.json" if len(named) > most else "")
