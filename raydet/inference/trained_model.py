"""From what a user names to a model that answers: a checkpoint, a run's folder, an exported file, foreign weights."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from raydet.config import Config, override
from raydet.data import Index
from raydet.data.formats.class_mapping import with_classes
from raydet.exceptions import CheckpointError, ConfigError, DataError, RaydetError, one_line
from raydet.models import weights
from raydet.onnx import metadata, onnx_model
from raydet.quantization import in_words, is_quantized, uncalibrated
from raydet.recipes import RECIPES, recipe
from raydet.training.calibrate import post_training
from raydet.training.resume import as_weights_want, find_checkpoint, saved_classes, saved_config
from raydet.training.state import build_model, resolve_model

_BUILT = ("name", "num_classes", "padding", "redundant_bias", "anchor_scale", "bn_eps", "act")
_FIXED = ("recipe", *(f"model.{field}" for field in _BUILT))


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, in eval mode on the CPU, and what it was trained for."""

    cfg: Config
    model: nn.Module
    class_names: list[str]
    category_ids: list[int]
    """Class -> the data set's id of it."""
    path: Path | None
    """The checkpoint or exported file; None for foreign weights."""

    def check_classes(self, index: Index) -> None:
        """Raise ConfigError unless the data set has as many classes as the model, and the same."""
        if index.num_classes != len(self.category_ids):
            raise ConfigError(
                f"the model has {len(self.category_ids)} classes, the data set in data.root={self.cfg.data.root} has "
                f"{index.num_classes}; is this the data it was trained for?"
            )
        self.in_its_classes(index)

    def in_its_classes(self, index: Index) -> Index:
        """Return the index with the model's classes, matched by name; the data set may lack some.

        Raises:
            ConfigError: it has classes that the model does not know.
        """
        if not any(self.class_names):  # foreign weights: their number is all that is known
            if index.num_classes != len(self.category_ids):
                self.check_classes(index)
            return index
        try:
            skip = self.cfg.data.on_bad == "skip"
            return with_classes(index, self.class_names, np.asarray(self.category_ids), of="the model", skip=skip)
        except DataError as error:
            place = f"the data set in data.root={self.cfg.data.root}"
            raise ConfigError(f"{place} {error.what}; is this the data it was trained for?") from None


def open_source(source: str | Path, changes: Mapping[str, Any]) -> TrainedModel:
    """Return the model that `source` names, with `changes` to its configuration.

    Raises:
        ConfigError: nothing of that name, or a change that cannot be. CheckpointError, WeightsError: a damaged file.
    """
    if str(source) in RECIPES:
        return _foreign(override(recipe(str(source)), changes))
    path = Path(source)
    if not path.exists():
        raise ConfigError(f"no checkpoint, run folder or recipe {str(source)!r}")
    if path.suffix == onnx_model.SUFFIX:
        return _exported(path, changes)
    for key in changes:
        if key in _FIXED:
            raise ConfigError(f"{key} cannot change: {path} was trained with it")
    checkpoint = find_checkpoint(path)
    saved = saved_config(checkpoint)
    cfg = override(saved, changes)
    if saved.quantization is not None and cfg.quantization != saved.quantization:
        raise ConfigError(f"quantization cannot change: {path} was trained with it")
    names, ids = saved_classes(checkpoint)
    try:
        model = build_model(saved, len(ids))
        model.load_state_dict(checkpoint.tensors("ema" if saved.ema.decay is not None else "model"))
    except (ValueError, TypeError, RuntimeError) as error:  # no such network, or tensors of another
        if isinstance(error, RaydetError):
            raise
        what = one_line(str(error), 200)
        raise CheckpointError(f"{checkpoint.path}: its tensors are not its configuration's network: {what}") from error
    return _calibrated(TrainedModel(cfg, model.eval(), names, ids, checkpoint.path))


def _calibrated(source: TrainedModel) -> TrainedModel:
    """Return the source; where its configuration asks for INT8, missing ranges come from its training data."""
    wanted = source.cfg.quantization
    if wanted is not None and (not is_quantized(source.model) or uncalibrated(source.model)):
        print(f"INT8      {in_words(wanted)}", file=sys.stderr, flush=True)
        post_training(source.cfg, source.model)
    return source


def _exported(path: Path, changes: Mapping[str, Any]) -> TrainedModel:
    data, about = onnx_model.load(path)
    cfg = metadata.changed(about, changes, path)
    model = onnx_model.OnnxModel(data, about, path, use_gpu=cfg.scaling.use_gpu)
    if not cfg.scaling.use_gpu:
        onnx_model.warn_if_slow(about)
        onnx_model.warn_if_saturating(data, about, path)
    return TrainedModel(cfg, model.eval(), about.class_names, about.category_ids, path)


def _foreign(cfg: Config) -> TrainedModel:
    spec, count = cfg.model.weights, cfg.model.num_classes
    if spec is None:
        raise ConfigError(f"model.weights must name the weights to use with recipe {cfg.recipe}")
    if count is None:
        raise ConfigError(f"model.num_classes must be given with recipe {cfg.recipe} and foreign weights")
    cfg = as_weights_want(resolve_model(cfg))
    model = build_model(cfg, count)
    weights.load(model, weights.resolve(spec), num_classes_may_differ=False, source=cfg.model.weights_source)
    first = 1 if cfg.task == "detection" else 0
    return _calibrated(TrainedModel(cfg, model.eval(), [""] * count, list(range(first, first + count)), None))
