"""Weights and state that a run starts from: a checkpoint's, or those asked for."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from raydet.config import Config, as_flat, from_dict, load, override
from raydet.exceptions import CheckpointError, ConfigError, one_line
from raydet.models import EfficientDet, EfficientNet, weights
from raydet.runs import checkpoint_store
from raydet.runs.layout import CHECKPOINTS
from raydet.tasks.build import score_name
from raydet.training.state import State, build_model


def find_checkpoint(path: Path) -> checkpoint_store.Checkpoint:
    """Return the checkpoint that `path` names: itself, or a run's best (or newest, where none was scored).

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    folder = path / CHECKPOINTS
    if not folder.is_dir():
        return checkpoint_store.read(path)
    newest = checkpoint_store.newest(folder)
    if newest is None:
        if any(folder.glob("step_*")):
            raise CheckpointError(f"{path} holds only damaged checkpoints; take a copy, or train again")
        raise CheckpointError(f"{path} holds no usable checkpoint; the run has not saved one yet")
    score = score_name(saved_config(newest))
    return checkpoint_store.best(folder, score, "max") or newest


def saved_config(checkpoint: checkpoint_store.Checkpoint) -> Config:
    """Return the configuration that a checkpoint was trained with."""
    values = checkpoint.state().get("config")
    if not isinstance(values, dict):
        raise CheckpointError(f"{checkpoint.path}: state.json holds no configuration")
    try:
        return from_dict(values)
    except ConfigError as error:
        raise CheckpointError(f"{checkpoint.path}: state.json: {error}") from error


def saved_classes(checkpoint: checkpoint_store.Checkpoint) -> tuple[list[str], list[int]]:
    """Return the names and the data set's ids of the classes that a checkpoint was trained on.

    Raises:
        CheckpointError: it does not say so.
    """
    classes: Any = checkpoint.state().get("classes")
    try:
        names, ids = [str(name) for name in classes["names"]], [int(i) for i in classes["ids"]]
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{checkpoint.path}: state.json names no classes") from error
    if len(names) != len(ids):
        raise CheckpointError(f"{checkpoint.path}: state.json has {len(names)} classes with {len(ids)} ids")
    return names, ids


def built_otherwise(model: EfficientNet | EfficientDet, weights_path: Path) -> list[str]:
    """Return in words how the network of a checkpoint of raydet's differs from `model` in what no tensor shows.

    Raises:
        CheckpointError: it is damaged; all of it is looked at.
    """
    folder = weights_path if weights_path.is_dir() else weights_path.parent
    if not (folder / "state.json").is_file():
        return []
    saved = override(saved_config(checkpoint_store.read(folder)), {"quantization": None})
    with torch.device("meta"):
        theirs = build_model(saved, 1)
    found = []
    for field, value in _unseen(theirs).items():
        ours = _unseen(model).get(field, value)
        if value != ours:
            found.append(f"the weights were trained with model.{field}={value}, the model has {ours}")
    return found


def other_classes(names: Sequence[str], report: weights.LoadReport) -> list[str]:
    """Return in words how the classes of a checkpoint of raydet's differ from those of the data, where the head is its.

    Raises:
        CheckpointError: it is damaged.
    """
    folder = report.path if report.path.is_dir() else report.path.parent
    if not (folder / "state.json").is_file():
        return []
    theirs, _ = saved_classes(checkpoint_store.read(folder))
    if theirs == list(names):
        return []
    kept = not report.reinitialised and not report.untouched
    i = next((i for i, (a, b) in enumerate(zip(theirs, names, strict=False)) if a != b), min(len(theirs), len(names)))
    first = f"class {i} is {theirs[i]!r} in the weights" if i < len(theirs) else f"the weights have no class {i}"
    ours = f"{names[i]!r} in the data" if i < len(names) else "none in the data"
    head = "the head is taken as it is" if kept else "the head is new"
    return [f"the weights were trained on other classes: {first}, {ours}; {head}"]


def _unseen(model: EfficientNet | EfficientDet) -> dict[str, float | str]:
    backbone = model.backbone if isinstance(model, EfficientDet) else model
    found: dict[str, float | str] = {"padding": backbone.padding, "act": backbone.act, "bn_eps": backbone.norm.eps}
    if isinstance(model, EfficientDet):
        found["anchor_scale"] = model.anchor_scale
    return found


FROM_WEIGHTS = ("model.padding", "model.bn_eps", "data.mean", "data.std")
"""Settings that are taken from the weights a run starts from, where they are None."""


def as_weights_want(cfg: Config) -> Config:
    """Return `cfg` with those of FROM_WEIGHTS that are None as the weights it names want them, if these say so.

    Raises:
        WeightsError: the weights cannot be had or read.
    """
    values = as_flat(cfg)
    wanted: dict[str, object] = {}
    for spec in (cfg.model.weights, cfg.model.backbone_weights):
        if spec is not None:
            wanted |= _wanted_by(weights.resolve(spec))
    return override(cfg, {key: value for key, value in wanted.items() if value is not None and values[key] is None})


def _wanted_by(path: Path) -> dict[str, object]:
    saved = _config_beside(path)
    if saved is not None:
        with torch.device("meta"):
            model = build_model(override(saved, {"quantization": None}), 1)
        unseen = _unseen(model)
        return {
            "model.padding": unseen["padding"],
            "model.bn_eps": unseen["bn_eps"],
            "data.mean": saved.data.mean,
            "data.std": saved.data.std,
        }
    found = weights.traits(path)
    mean, std = found.pixels or (None, None)
    return {"model.padding": found.padding, "model.bn_eps": found.bn_eps, "data.mean": mean, "data.std": std}


def _config_beside(path: Path) -> Config | None:
    """The configuration of the run or checkpoint that the weights are of; None where it cannot be told.

    What is damaged there is said when the weights are loaded.
    """
    folder = path if path.is_dir() else path.parent
    with suppress(OSError, ValueError, KeyError, TypeError, ConfigError):
        if (folder / CHECKPOINTS).is_dir():
            return load(folder / "config.json")
        return from_dict(json.loads((folder / "state.json").read_text())["config"])
    return None


def restore(state: State, path: Path) -> None:
    """Set `state` to a checkpoint's, all of which is verified.

    Raises:
        CheckpointError: it is damaged, or what it holds does not fit this network and optimizer.
    """
    saved = checkpoint_store.read(path)
    tensors, record = {name: saved.tensors(name) for name in state.tensors()}, saved.state()
    try:
        state.restore(tensors, record)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        what = one_line(f"{type(error).__name__}: {error}", 200)
        raise CheckpointError(f"{path} does not fit the network and optimizer that are trained: {what}") from error


def load_weights(cfg: Config, model: EfficientNet | EfficientDet) -> list[weights.LoadReport]:
    """Load what model.weights and model.backbone_weights name; return what was loaded."""
    reports = []
    if cfg.model.weights is not None:
        reports.append(weights.load(model, weights.resolve(cfg.model.weights), source=cfg.model.weights_source))
    if cfg.model.backbone_weights is not None:
        reports.append(weights.load(model, weights.resolve(cfg.model.backbone_weights), backbone_only=True))
    return reports


def newest_path(folder: Path) -> str | None:
    """Return the path of a run's newest valid checkpoint; None: there is none."""
    newest = checkpoint_store.newest(folder / CHECKPOINTS)
    return None if newest is None else str(newest.path)
