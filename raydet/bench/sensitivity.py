"""What INT8 costs a trained model before any training: group by group, and by way of calibration.

A group's cost is the loss with that group alone in INT8, its ranges those of the whole calibrated network. What to
leave in FP32 is found greedily: of the groups still in INT8, the one without which the loss falls most.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from raydet.config import Config, override
from raydet.data import Batch, Index
from raydet.distributed import WorkerGroup
from raydet.exceptions import ConfigError
from raydet.inference.images import held_out
from raydet.inference.trained_model import TrainedModel, open_source
from raydet.quantization import is_quantized, placements, quantizers
from raydet.tasks.build import make_task, score_name
from raydet.training.calibrate import post_training
from raydet.training.scoring import score

ENOUGH = 0.01
"""A score this near to that of floats needs no group in floats."""
_MOST_SKIPPED = 3
"""Where so many groups in floats are not enough, only training helps."""


@dataclass(frozen=True)
class Sensitivity:
    """Scores of a model on the same held-out images."""

    score: str
    """Name of the score; higher is better."""
    images: int
    floats: dict[str, float]
    """`eval_loss` and the score, in floats."""
    int8: dict[str, float]
    """The same with everything in INT8 that can be."""
    alone: dict[str, dict[str, float]]
    """The same with one group in INT8 and all others in FP32, the costliest first."""
    skip: tuple[str, ...]
    """Groups to leave in floats (quantization.skip), so that the score is within ENOUGH of that of floats; none where
    none are needed, or where a few would not do."""
    skipped: dict[str, float]
    """The scores then."""


@dataclass(frozen=True)
class Ranked:
    """One way to quantize without training, and what it gives."""

    changes: Mapping[str, Any]
    metrics: dict[str, float]


def sensitivity_of(trained: TrainedModel, images: int) -> Sensitivity:
    """Return what each group of layers costs in INT8.

    Args:
        trained: as `open_floats` gives it; quantized and calibrated afterwards.
        images: held-out images to score on, spread over the validation split.

    Raises:
        DataError: the data.
    """
    cfg, model = trained.cfg, trained.model
    with held_out(cfg, images, needed=True) as sample:
        batches = list(sample.batches)
        assert sample.index is not None

        def measured() -> dict[str, float]:
            return _measured(cfg, model, sample.index, batches)

        floats = measured()
        post_training(cfg, model)
        groups = sorted({placed.group for placed in placements(model)})
        whole = measured()
        alone = {}
        for group in groups:
            with only(model, {group}):
                alone[group] = measured()
        skip, left = _skip(model, groups, floats, whole, measured, score_name(cfg))
    costliest = sorted(alone.items(), key=lambda item: -item[1]["eval_loss"])
    return Sensitivity(score_name(cfg), len(sample.index), floats, whole, dict(costliest), skip, left)


def open_floats(source: str | Path, changes: Mapping[str, Any]) -> TrainedModel:
    """Return a float model with `changes` to its configuration, those of `quantization` included but not yet done.

    Raises:
        ConfigError: it is quantized already, or a key cannot be used.
    """
    ways = {key: value for key, value in changes.items() if key.partition(".")[0] == "quantization"}
    trained = open_source(source, {key: value for key, value in changes.items() if key not in ways})
    if is_quantized(trained.model) or trained.path is None or trained.path.suffix == ".onnx":
        raise ConfigError(f"{source} must be a float checkpoint or run, such as the one a quantized run began with")
    cfg = override(trained.cfg, ways or {"quantization.bits": 8})
    return TrainedModel(cfg, trained.model, trained.class_names, trained.category_ids, trained.path)


def _measured(cfg: Config, model: nn.Module, index: Index | None, batches: Sequence[Batch]) -> dict[str, float]:
    device = next(model.parameters()).device
    found = score(model, make_task(cfg, model, device), index, batches, cfg, WorkerGroup(device=device))
    return {name: found[name] for name in ("eval_loss", score_name(cfg))}


@contextmanager
def only(model: nn.Module, groups: set[str]) -> Iterator[None]:
    """Let the fake-quantizers of these groups alone work; all others pass values through."""
    stopped = [
        quantizer
        for placed in placements(model)
        if placed.group not in groups
        for quantizer in quantizers(model.get_submodule(placed.name)).values()
    ]
    for quantizer in stopped:
        cast("Any", quantizer).disable()
    try:
        yield
    finally:
        for quantizer in stopped:
            cast("Any", quantizer).enable()


def _skip(
    model: nn.Module, groups: Sequence[str], floats: dict[str, float], whole: dict[str, float], measured: Any, name: str
) -> tuple[tuple[str, ...], dict[str, float]]:
    """Return what to leave in floats, group after group until the score is near enough, and the scores then."""
    skip: list[str] = []
    now = whole
    while now[name] < floats[name] - ENOUGH:
        if len(skip) == _MOST_SKIPPED:
            return (), whole
        tried = {}
        for group in groups:
            if group not in skip:
                with only(model, set(groups) - {*skip, group}):
                    tried[group] = measured()
        best = min(tried, key=lambda group: tried[group]["eval_loss"])
        skip.append(best)
        now = tried[best]
    return tuple(skip), now


def rank_calibrations(
    source: str | Path,
    ways: Sequence[Mapping[str, Any]],
    changes: Mapping[str, Any] | None = None,
    *,
    images: int = 256,
) -> list[Ranked]:
    """Return ways to quantize without training, the best first: what a search over QAT starts from.

    Each takes seconds, where training takes hours.

    Args:
        source: a float checkpoint or run folder.
        ways: keys and values of the section `quantization`, e.g. `{"quantization.calibration": "max"}`.
        changes: other dotted configuration keys.
        images: held-out images to score on.

    Raises:
        ConfigError: a quantized checkpoint, or a key that cannot be used. DataError: the data.
    """
    ranked = []
    for way in ways:
        trained = open_floats(source, {**(changes or {}), **way})
        post_training(trained.cfg, trained.model)
        with held_out(trained.cfg, images, needed=True) as sample:
            ranked.append(Ranked(way, _measured(trained.cfg, trained.model, sample.index, list(sample.batches))))
    return sorted(ranked, key=lambda one: one.metrics["eval_loss"])
