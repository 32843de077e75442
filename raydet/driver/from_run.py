"""From one run to the next: more training, other data, or quantization-aware training, from a run's weights."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from raydet.config import Config, as_flat, override
from raydet.driver.own_data import Choices, OwnData, own_data
from raydet.exceptions import ConfigError
from raydet.recipes.own_data import OWN_DATA
from raydet.training.resume import find_checkpoint, saved_config

_OF_THE_NETWORK = (
    *("model.name", "model.image_size", "model.anchor_scale", "model.padding", "model.bn_eps", "model.act"),
    *("model.redundant_bias", "data.mean", "data.std"),
)
"""Settings without which the weights would mean something else."""
_LR_SHARE = 0.3
_INT8_LR_SHARE = 0.1
_INT8_EPOCHS = 0.15


def from_run(source: str | Path, place: str | Path | None, changes: Mapping[str, Any]) -> OwnData:
    """Return the configuration of a new run that starts from the best weights of another.

    The new run has the other's data and settings, with a lower learning rate; quantization-aware training, if `changes`
    ask for it, has fewer epochs too. On other data it has the settings of `raydet fit DATA`, for the same network.

    Args:
        source: a run's folder, or a checkpoint's.
        place: other data to train on, as `raydet.driver.own_data` takes them; None: the run's own.
        changes: dotted keys that the user has given; none of them is chosen here.

    Raises:
        CheckpointError: no usable checkpoint lies there. ConfigError, DataError: as `own_data`.
    """
    checkpoint = find_checkpoint(Path(source).expanduser().absolute())
    begun, folder = saved_config(checkpoint), checkpoint.path.parent.parent
    bits = begun.quantization is None and any(
        value is not None for key, value in changes.items() if key.partition(".")[0] == "quantization"
    )
    weights = {"model.weights": str(checkpoint.path), "model.backbone_weights": None}
    came = f"{checkpoint.path.name} of {folder}"
    if place is not None:
        if begun.model.name not in OWN_DATA:
            raise ConfigError(
                f"{begun.model.name} has no defaults for other data; name a recipe and --model.weights {folder}"
            )
        flat = as_flat(begun)
        kept = {key: flat[key] for key in _OF_THE_NETWORK if flat[key] is not None}
        fitted = own_data(place, {**kept, **weights, **changes})
        if "run.name" not in changes:  # that of the data is the name of a run that starts from no other
            name = f"{fitted.cfg.run.name[:31]}_from_{folder.name}"[:64]
            fitted = replace(fitted, cfg=override(fitted.cfg, {"run.name": name}))
        network = ", ".join(f"{key} {value}" for key, value in kept.items())
        return replace(fitted, came_from=f"the weights of {came}, and its network: {network}")
    named = {"run.name": f"{folder.name}_{'int8' if bits else 'more'}", "run.storage_path": str(folder.parent)}
    # Quantizers ask the host at each call.
    eager = {"precision.compile": False, "precision.cuda_graph": False} if bits else {}
    choices = Choices(override(begun, {**named, **weights, **eager, **changes}), frozenset(changes))
    _fit_learning_rate(choices, begun, _INT8_LR_SHARE if bits else _LR_SHARE)
    if bits:
        _fit_quantization(choices, begun)
    came = f"the weights of {came}, its data, classes and settings; not its optimizer state, which starts afresh"
    return OwnData(choices.cfg, tuple(choices.made), came_from=came)


def _fit_learning_rate(choices: Choices, begun: Config, share: float) -> None:
    lr = begun.optim.lr
    choices.set("optim.lr", float(f"{share * lr:.2g}"), f"{share:g} of {lr:g}, for the weights are trained")
    if begun.schedule.min_lr > 0:
        least = min(begun.schedule.min_lr, choices.cfg.optim.lr / 100)
        choices.set("schedule.min_lr", float(f"{least:.2g}"), "at the end of the schedule")


def _fit_quantization(choices: Choices, begun: Config) -> None:
    """Choose what the INT8 recipes choose (raydet/recipes/qat.py), in the measure of the run."""
    was = begun.schedule.epochs
    epochs = max(2, math.ceil(_INT8_EPOCHS * was))
    choices.set("schedule.epochs", epochs, f"{_INT8_EPOCHS:.0%} of {was}, for most comes back in the first")
    choices.set("schedule.warmup_epochs", 0.0, "the weights are trained")
    choices.set("schedule.cooldown_epochs", 0, "as the INT8 recipes")
    if begun.task == "detection":
        choices.set("quantization.skip", ("predict",), "its few outputs decide every box")
        choices.set("quantization.freeze_bn_after", 0.5, "the weights settle to what evaluation uses")
