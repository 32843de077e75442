"""Training and scoring with fake-quantizers: what a run keeps, how it resumes, what a float checkpoint turns into."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from raydet.config import Config, override
from raydet.data import TrainLoader, open_split
from raydet.distributed import WorkerGroup
from raydet.driver.plan import make_plan
from raydet.exceptions import ConfigError
from raydet.inference import evaluate
from raydet.inference.trained_model import open_source
from raydet.quantization import calibrate, quantizers, uncalibrated
from raydet.tasks.build import make_task
from raydet.training.loop import epochs
from raydet.training.state import build_model, new_state
from raydet.training.step import Trainer
from tests.workers import newest, run_workers, trained


@pytest.fixture(params=[pytest.param("classification", marks=pytest.mark.soak), "detection"])
def qat(request: pytest.FixtureRequest) -> Config:
    """The configuration of two epochs of quantization-aware training that start from a float run."""
    floats = {"classification": "trained_classifier", "detection": "trained_detector"}[request.param]
    return integers(request.getfixturevalue(request.param), request.getfixturevalue(floats))


def integers(cfg: Config, weights: Path, **changes: object) -> Config:
    named = {key.replace("__", "."): value for key, value in changes.items()}
    start = {"model.weights": str(weights), "quantization.batches": 2, "schedule.epochs": 2}
    return override(cfg, start | {"optim.lr": 1e-4, "evaluation.recalibrate_bn": 0} | named)


def ranges(folder: Path, file: str = "model") -> dict[str, torch.Tensor]:
    return {key: x for key, x in newest(folder).tensors(file).items() if key.endswith("_amax")}


@pytest.mark.slow
def test_a_quantized_run_keeps_the_ranges_it_began_with(qat: Config, tmp_path: Path) -> None:
    folder = trained(qat, tmp_path / "qat")
    saved = ranges(folder)
    assert len(saved) == len(quantizers(build_model(make_plan(qat).cfg, newest_classes(folder))))
    assert all(x.isfinite().all() and (x > 0).all() for x in saved.values())
    begun = ranges(trained(override(qat, {"schedule.epochs": 1}), tmp_path / "shorter"))
    assert all(torch.equal(begun[key], value) for key, value in saved.items())
    assert all(torch.equal(x, saved[key]) for key, x in ranges(folder, "ema").items())


def newest_classes(folder: Path) -> int:
    return len(newest(folder).state()["classes"]["ids"])  # type: ignore[index,call-overload,arg-type]


@pytest.mark.slow
def test_a_quantized_run_resumed_equals_an_undisturbed_one(qat: Config, tmp_path: Path) -> None:
    cfg = override(qat, {"quantization.freeze_bn_after": 0.5})
    whole = newest(trained(cfg, tmp_path / "whole"))
    trained(cfg, tmp_path / "parts", stop_after=1)
    parts = newest(trained(cfg, tmp_path / "parts"))
    assert whole.step == parts.step
    for file in ("model", "ema", "optim"):
        theirs = parts.tensors(file)
        assert all(torch.equal(x, theirs[key]) for key, x in whole.tensors(file).items())


@pytest.mark.slow
def test_norms_stop_moving_after_their_share_of_the_training(classification: Config, trained_classifier: Path) -> None:
    cfg = integers(classification, trained_classifier, quantization__freeze_bn_after=0.25, run__log_steps=1)
    cfg = make_plan(cfg).cfg
    index = open_split(cfg, "train")
    loader = TrainLoader(cfg, index)
    model = build_model(cfg, index.num_classes)
    task = make_task(cfg, model, torch.device("cpu"))
    batch = next(iter(loader.epoch(0)))[0]
    assert cfg.quantization is not None
    calibrate(model, [task.inputs(batch)], cfg.quantization)
    state = new_state(cfg, model, 1, torch.device("cpu"))
    means = []
    for report in epochs(cfg, task, state, loader, lambda model: {"top1": 0.0}, WorkerGroup()):
        if report.kind == "log":
            means.append(model.get_buffer("bn1.running_mean").clone())
    steps = cfg.schedule.total_epochs * loader.steps_per_epoch
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(means)]
    assert len(means) == steps and moved == [i + 2 <= 0.25 * steps for i in range(steps - 1)]
    assert model.bn1.weight.requires_grad


@pytest.mark.slow
def test_a_step_trains_weights_and_no_range(classification: Config) -> None:
    cfg = override(make_plan(classification).cfg, {"quantization.batches": 1})
    loader = TrainLoader(cfg, open_split(cfg, "train"))
    model = build_model(cfg, 10)
    task = make_task(cfg, model, torch.device("cpu"))
    micro_batches = next(iter(loader.epoch(0)))
    calibrate(model, [task.inputs(micro_batches[0])], cfg.quantization)  # type: ignore[arg-type]
    state = new_state(cfg, model, 1, torch.device("cpu"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    Trainer(cfg, task, state, WorkerGroup()).step(micro_batches, 1e-2)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert {"conv_stem.weight", "classifier.weight", "blocks.1.0.se.conv_reduce.weight"} <= changed
    assert not any(key.endswith("_amax") for key in changed)


@pytest.mark.soak
@pytest.mark.parametrize("method", ["max", "percentile"])
def test_ranges_do_not_depend_on_the_number_of_workers(
    method: str, classification: Config, trained_classifier: Path, tmp_path: Path
) -> None:
    changes = {"schedule.epochs": 1, "data.batch_size": 4, "optim.batch_size": 8, "ema.decay": None}
    cfg = integers(classification, trained_classifier, quantization__calibration=method, quantization__batches=3)
    cfg = override(cfg, changes)
    one = ranges(trained(cfg, tmp_path / "one"))
    run_workers(make_plan(override(cfg, {"scaling.num_workers": 2})).cfg, tmp_path / "two", 2)
    assert all(torch.equal(x, ranges(tmp_path / "two")[key]) for key, x in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("floats", ["trained_classifier", "trained_detector"])
def test_a_float_checkpoint_is_scored_in_integers_when_asked(floats: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(floats)
    plain = evaluate.evaluate(folder)
    eight = evaluate.evaluate(folder, {"quantization.bits": 8, "quantization.batches": 2})
    assert plain["eval_loss"] != eight["eval_loss"]
    assert abs(plain["eval_loss"] - eight["eval_loss"]) < 0.2 * plain["eval_loss"]


@pytest.mark.slow
def test_a_quantized_source_has_all_ranges_and_is_not_quantized_otherwise(quantized_classifier: Path) -> None:
    source = open_source(quantized_classifier, {})
    assert not uncalibrated(source.model) and quantizers(source.model)
    kept = newest(quantized_classifier).tensors("ema")
    assert all(torch.equal(x, kept[key]) for key, x in source.model.state_dict().items())
    for change in ({"quantization.bits": 4}, {"quantization": None}):
        with pytest.raises(ConfigError, match="quantization cannot change"):
            open_source(quantized_classifier, change)


@pytest.mark.slow
def test_a_quantized_run_can_start_from_a_quantized_one_and_takes_its_ranges(
    classification: Config, quantized_classifier: Path, tmp_path: Path
) -> None:
    again = integers(classification, quantized_classifier, schedule__epochs=1, quantization__batches=1)
    second, first = ranges(trained(again, tmp_path / "again")), ranges(quantized_classifier)
    assert all(torch.equal(x, first[key]) for key, x in second.items())


@pytest.mark.slow
def test_ranges_are_in_the_file_format_of_every_checkpoint(classification: Config, quantized_classifier: Path) -> None:
    saved = ranges(quantized_classifier)
    stem: nn.Module = build_model(classification, 10).conv_stem
    assert saved["conv_stem.weight_quantizer._amax"].shape == (stem.weight.shape[0], 1, 1, 1)
    assert saved["conv_stem.input_quantizer._amax"].shape == ()
