"""Whole runs on toy data: what is written, that a resumed run equals an undisturbed one, that workers do not matter."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raydet.config import Config, override
from raydet.distributed import WorkerGroup
from raydet.driver.plan import make_plan
from raydet.runs import checkpoint_store
from raydet.training import loop
from raydet.training.worker import train
from tests.workers import newest, run_workers, trained


def same_tensors(a: Path, b: Path) -> bool:
    x, y = newest(a), newest(b)
    assert x.step == y.step
    pairs = ((x.tensors(name), y.tensors(name)) for name in ("model", "ema", "optim"))
    return all(torch.equal(tensor, other[key]) for one, other in pairs for key, tensor in one.items())


def step_losses(folder: Path, key: str) -> list[float]:
    lines = [json.loads(line[5:]) for line in (folder / "log.json").read_text().splitlines()]
    logs = [line for line in lines if line["type"] == "LOG"]
    return [line["data"][key] for line in logs if isinstance(line["step"], list) and len(line["step"]) > 1]


def test_a_run_leaves_the_documented_files(classification: Config, tmp_path: Path) -> None:
    folder = trained(classification, tmp_path / "a")
    names = {path.name for path in folder.iterdir()}
    assert {"log.json", "metrics.jsonl", "results.csv", "checkpoints"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2] and {"top1", "top5", "eval_loss", "train_loss"} <= set(rows[-1])
    files = {path.name for path in newest(folder).path.iterdir()}
    assert files == {"model.safetensors", "ema.safetensors", "optim.safetensors", "state.json", "MANIFEST.json"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classification", "detection"])
def test_a_run_resumed_after_an_epoch_equals_an_undisturbed_one(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    cfg = request.getfixturevalue(kind)
    whole = trained(cfg, tmp_path / "whole")
    trained(cfg, tmp_path / "parts", stop_after=1)
    parts = trained(cfg, tmp_path / "parts")
    assert same_tensors(whole, parts)
    lines = [(f / "metrics.jsonl").read_text().splitlines() for f in (whole, parts)]
    figures = [[json.loads(line) for line in text] for text in lines]
    scores = [
        [{k: v for k, v in row.items() if "loss" in k or k in ("AP", "top1")} for row in rows] for rows in figures
    ]
    assert scores[0] == scores[1] and len(scores[0]) == 2


@pytest.mark.slow
def test_a_run_resumed_in_the_middle_of_an_epoch_equals_an_undisturbed_one(detection: Config, tmp_path: Path) -> None:
    cfg = override(detection, {"run.checkpoint_steps": 2, "run.keep": 100})
    whole = trained(cfg, tmp_path / "whole")
    parts = tmp_path / "parts" / "checkpoints"
    parts.mkdir(parents=True)
    for step in (2, 4):  # what a kill after step 4 of 6 leaves
        (whole / "checkpoints" / f"step_{step:08d}").rename(parts / f"step_{step:08d}")
    assert newest(tmp_path / "parts").epoch == 0
    trained(cfg, tmp_path / "parts")
    assert same_tensors(whole, tmp_path / "parts")


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(classification: Config, tmp_path: Path) -> None:
    whole = trained(classification, tmp_path / "whole")
    parts = trained(classification, tmp_path / "parts")
    weights = newest(parts).path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.warns(RuntimeWarning, match=newest_name(parts)):
        trained(classification, parts)
    assert same_tensors(whole, parts)


def newest_name(folder: Path) -> str:
    return max(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.slow
def test_accumulating_micro_batches_is_the_same_as_one_large_batch(detection: Config, tmp_path: Path) -> None:
    cfg = override(detection, {"model.freeze_bn": True, "run.log_steps": 1, "evaluation.recalibrate_bn": 0})
    once = trained(cfg, tmp_path / "once")
    split = trained(override(cfg, {"data.batch_size": 1}), tmp_path / "split")
    assert step_losses(split, "train_loss") == pytest.approx(step_losses(once, "train_loss"), rel=1e-4)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["classification", "detection"])
def test_two_workers_learn_what_one_learns(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """20 steps, within 1e-4, drop path and mixup on; BatchNorm frozen, whose statistics are per worker."""
    changes = {
        "model.freeze_bn": True,
        "model.drop_path": 0.2,
        "run.log_steps": 1,
        "evaluation.recalibrate_bn": 0,
        "schedule.epochs": 4,
        "schedule.warmup_epochs": 0.0,
    }
    cfg = override(
        request.getfixturevalue(kind), changes | ({"augment.mixup": 0.2} if kind == "classification" else {})
    )
    cfg = make_plan(cfg).cfg
    run_workers(cfg, tmp_path / "one", 1)
    run_workers(cfg, tmp_path / "two", 2)
    key = "train_loss" if kind == "detection" else "train.loss"
    one, two = (step_losses(tmp_path / name, key) for name in ("one", "two"))
    assert len(one) >= 20 and one[0] != one[-1]
    assert two == pytest.approx(one, rel=1e-4)


def _train_without_wrapper(
    cfg: Config, folder: Path, workers: WorkerGroup, tell: Callable[[dict[str, float]], None]
) -> None:
    """As on GPUs with precision.cuda_graph, but that the captured work is simply done again."""
    loop.Trainer = functools.partial(loop.Trainer, capture=lambda work: work)  # type: ignore[misc,assignment]
    train(cfg, folder, workers, tell)


@pytest.mark.soak
def test_two_workers_with_one_buffer_of_gradients_learn_what_one_learns(detection: Config, tmp_path: Path) -> None:
    """What a captured step adds up itself is what DistributedDataParallel would."""
    cfg = override(detection, {"model.freeze_bn": True, "run.log_steps": 1, "evaluation.recalibrate_bn": 0})
    cfg = make_plan(override(cfg, {"schedule.warmup_epochs": 0.0})).cfg
    run_workers(cfg, tmp_path / "one", 1)
    run_workers(cfg, tmp_path / "two", 2, _train_without_wrapper)
    one, two = (step_losses(tmp_path / name, "train_loss") for name in ("one", "two"))
    assert len(one) >= 10 and one[0] != one[-1]
    assert two == pytest.approx(one, rel=1e-4)


def _die_in_the_second_epoch(
    cfg: Config, folder: Path, workers: WorkerGroup, tell: Callable[[dict[str, float]], None]
) -> None:
    def stop(metrics: dict[str, float]) -> None:
        raise SystemExit(0)

    train(cfg, folder, workers, stop)


@pytest.mark.slow
def test_two_workers_resumed_equal_two_undisturbed(detection: Config, tmp_path: Path) -> None:
    cfg = make_plan(override(detection, {"scaling.num_workers": 0})).cfg
    run_workers(cfg, tmp_path / "whole", 2)
    run_workers(cfg, tmp_path / "parts", 2, _die_in_the_second_epoch)
    assert newest(tmp_path / "parts").epoch == 1
    run_workers(cfg, tmp_path / "parts", 2)
    assert same_tensors(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_early_stop_ends_the_run_and_saves_its_last_epoch(classification: Config, tmp_path: Path) -> None:
    cfg = override(classification, {"optim.lr": 1e-12, "schedule.epochs": 9, "run.early_stop": 2, "ema.decay": None})
    cfg = override(cfg, {"model.freeze_bn": True})
    folder = trained(cfg, tmp_path / "a")
    assert newest(folder).epoch == 3


@pytest.mark.slow
def test_checkpoints_are_pruned_but_the_best_stays(classification: Config, tmp_path: Path) -> None:
    cfg = override(classification, {"schedule.epochs": 5, "run.keep": 1})
    folder = trained(cfg, tmp_path / "a")
    left = sorted(path.name for path in (folder / "checkpoints").iterdir())
    best = checkpoint_store.best(folder / "checkpoints", "top1", "max")
    assert best is not None and best.path.name in left and newest_name(folder) == left[-1] and len(left) <= 2


@pytest.mark.slow
def test_frozen_parts_do_not_move(detection: Config, tmp_path: Path) -> None:
    cfg = override(detection, {"model.freeze": ["backbone"], "evaluation.recalibrate_bn": 0, "schedule.epochs": 1})
    folder = trained(cfg, tmp_path / "a")
    from raydet.training.state import build_model

    fresh = build_model(make_plan(cfg).cfg, 10).state_dict()
    after = newest(folder).tensors("model")
    moved = {key.partition(".")[0] for key in fresh if not torch.equal(fresh[key], after[key])}
    assert "backbone" not in moved and {"fpn", "class_net", "box_net"} <= moved
