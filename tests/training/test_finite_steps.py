"""Losses and gradients that are not finite: the step is taken back everywhere and named, and training goes on."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet.config import Config, override
from raydet.distributed import WorkerGroup
from raydet.driver.continued_run import continued
from raydet.driver.fit import fit
from raydet.driver.plan import make_plan
from raydet.exceptions import ConfigError, NonFiniteLoss
from raydet.runs import diagnostics
from raydet.tasks.base import Task
from raydet.tasks.build import make_task
from raydet.training import worker
from raydet.training.cuda_graph import WARM_UP, Capture
from raydet.training.step import Trainer
from tests.recording import capture_on_cpu
from tests.training.test_cuda_graph import KINDS, RATES, batch, trainer, weights
from tests.workers import newest, run_workers, trained


def spoilt(one: Trainer) -> torch.Tensor:
    """Return what the losses of `one` are multiplied by: 1, to be filled with NaN or infinity."""
    factor, loss = torch.ones(()), one.task.loss
    one.task.loss = lambda *given: loss(*given) * factor  # type: ignore[method-assign]
    return factor


def everything(one: Trainer) -> dict[str, torch.Tensor]:
    """All that a step changes, but for BatchNorm's counters of batches, which nothing reads."""
    slots = one.state.tensors()["optim"]
    found = {**weights(one), **{f"optim.{key}": value for key, value in slots.items()}}
    return {key: tensor for key, tensor in found.items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("capture", [None, capture_on_cpu], ids=["eager", "replayed"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_named(kind: str, capture: Capture | None) -> None:
    one = trainer(kind, capture)
    factor = spoilt(one)
    for i in range(WARM_UP + 2):  # the last is replayed
        one.step([batch(kind, i)], RATES[kind])
    assert one.finite.read() == (0, [])
    for value in (math.nan, math.inf):
        before = {key: tensor.clone() for key, tensor in everything(one).items()}
        factor.fill_(value)
        one.step([batch(kind, 9)], RATES[kind])
        assert [key for key, tensor in everything(one).items() if not torch.equal(tensor, before[key])] == []
    count, faults = one.finite.read()
    assert count == 2 == one.state.skipped_in_row
    assert [(f.epoch, f.step, f.rows) for f in faults] == [(0, WARM_UP + i, [0, 1, 2, 3]) for i in (2, 3)]
    factor.fill_(1.0)
    one.step([batch(kind, 10)], RATES[kind])
    assert one.finite.read() == (0, []) and one.state.skipped_in_row == 0
    assert not torch.equal(everything(one)["sums"], before["sums"]) and one.state.is_finite()


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_first_step_of_all_may_be_one_of_them(kind: str) -> None:
    """In the form for a GPU too, where fused optimizers make their slots in a step that they do not make."""
    for capture in (None, capture_on_cpu):
        one, other = trainer(kind, capture), trainer(kind, capture)
        factor = spoilt(one)
        factor.fill_(math.nan)
        one.step([batch(kind, 5)], RATES[kind])
        factor.fill_(1.0)
        one.state.step = one.state.epoch_steps = 0
        for each in (one, other):
            each.step([batch(kind, 6)], RATES[kind])
        ours, theirs = everything(one), everything(other)
        assert [key for key, tensor in ours.items() if not torch.equal(tensor, theirs[key])] == []


def spoil_steps(monkeypatch: pytest.MonkeyPatch, *steps: tuple[int, int], rank: int = 0, most: int = 10**6) -> None:
    """Make the loss NaN in these (epoch, step), both from 0, the first `most` times that they are made."""
    left = [most]

    def make(cfg: Config, model: Any, device: torch.device) -> Task:
        task = make_task(cfg, model, device)
        loss, draw = task.loss, task.random_numbers
        now: list[tuple[int, int]] = []

        def random_numbers(epoch: int, step: int) -> Any:
            now[:] = [(epoch, step)]
            return draw(epoch, step)

        def spoilt_loss(*given: Any) -> torch.Tensor:
            found = loss(*given)
            here = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
            if now and now[0] in steps and here == rank and left[0] > 0 and torch.is_grad_enabled():
                left[0] -= 1
                return found * math.nan
            return found

        task.random_numbers, task.loss = random_numbers, spoilt_loss  # type: ignore[method-assign]
        return task

    monkeypatch.setattr(worker, "make_task", make)


def rows(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_one_such_step_costs_a_step_and_its_images_are_named(
    classification: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_steps(monkeypatch, (0, 3))
    folder = trained(classification, tmp_path / "a")
    first, second = rows(folder)
    assert first["skipped_steps"] == 1 and second.get("skipped_steps") is None
    assert all(math.isfinite(row["train_loss"]) for row in (first, second))
    (skipped,) = rows(folder, diagnostics.SKIPPED_STEPS)
    assert (skipped["epoch"], skipped["step"]) == (1, 4) and len(skipped["images"]) == 8
    assert all(tensor.isfinite().all() for tensor in newest(folder).tensors("model").values())


def test_after_three_in_a_row_training_goes_back_with_half_the_learning_rate(
    classification: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_steps(monkeypatch, (1, 2), (1, 3), (1, 4), most=3)
    cfg = override(classification, {"run.checkpoint_steps": 9, "run.log_steps": 1})
    folder = trained(cfg, tmp_path / "a")
    back = [line for line in rows(folder, diagnostics.SKIPPED_STEPS) if "back_to_step" in line]
    assert back == [{"back_to_step": 9, "lr_factor": 0.5}]
    state = newest(folder).state()
    assert state["lr_factor"] == 0.5 and state["reloads"] == 1 and newest(folder).epoch == 2
    assert [row["step"] for row in rows(folder)] == [8, 16]
    rates = [
        json.loads(line[5:])["data"]["train.lr"]
        for line in (folder / "log.json").read_text().splitlines()
        if '"train.lr"' in line and '"LOG"' in line and json.loads(line[5:])["step"] == [1, 2]
    ]
    assert len(rates) == 2 and rates[1] == pytest.approx(rates[0] / 2)


def test_before_the_first_checkpoint_training_goes_back_to_its_start(
    detection: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = override(detection, {"run.log_steps": 1, "schedule.epochs": 1})
    spoil_steps(monkeypatch, (0, 1), (0, 2), (0, 3), most=3)
    folder = trained(cfg, tmp_path / "a")
    assert {"back_to_step": 0, "lr_factor": 0.5} in rows(folder, diagnostics.SKIPPED_STEPS)
    assert newest(folder).epoch == 1


def test_a_run_that_gives_up_says_what_to_change_and_that_works_under_its_name(detection: Config) -> None:
    wild = {"optim.lr": 1e30, "optim.grad_clip": None, "schedule.warmup_epochs": 0.0, "run.log_steps": 1}
    cfg = override(detection, wild | {"run.nan_patience": 1})
    with pytest.raises(NonFiniteLoss, match=r"after 3 reloads, at learning rate \S+; .*skipped_steps.*Lower optim\.lr"):
        fit(cfg)
    folder = make_plan(cfg).folder
    assert diagnostics.has_given_up(folder) and not (folder / "checkpoints").exists()
    cured = override(cfg, {"optim.lr": 1e-3, "optim.grad_clip": 5.0, "schedule.epochs": 1})
    with pytest.raises(ConfigError, match=r"schedule\.epochs was 2, now 1"):  # only what may cure it
        fit(cured)
    cured = override(cured, {"schedule.epochs": 2})
    assert fit(cured).dir == folder
    with pytest.raises(ConfigError, match=r"optim\.lr was"):
        continued(cfg, folder)


def test_nothing_is_saved_that_is_not_finite(classification: Config, tmp_path: Path) -> None:
    """Weights that a step of finite gradients made infinite."""
    cfg = override(classification, {"run.checkpoint_steps": 1, "optim.lr": 3e38, "schedule.warmup_epochs": 0.0})
    with pytest.raises(NonFiniteLoss, match="not finite"):
        trained(override(cfg, {"run.nan_patience": 1000}), tmp_path / "a")
    assert list((tmp_path / "a").glob("checkpoints/step_*")) == []


def _spoil_rank_one(cfg: Config, folder: Path, workers: WorkerGroup, tell: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        spoil_steps(patch, (0, 1), rank=1)
        worker.train(cfg, folder, workers, tell)


@pytest.mark.slow
def test_what_one_worker_meets_all_take_back(classification: Config, tmp_path: Path) -> None:
    cfg = make_plan(override(classification, {"schedule.epochs": 1, "scaling.num_workers": 0})).cfg
    run_workers(cfg, tmp_path / "a", 2, _spoil_rank_one)
    (skipped,) = rows(tmp_path / "a", diagnostics.SKIPPED_STEPS)
    assert (skipped["epoch"], skipped["step"]) == (1, 2) and len(skipped["images"]) == 8
    assert all(tensor.isfinite().all() for tensor in newest(tmp_path / "a").tensors("model").values())
    assert math.isfinite(rows(tmp_path / "a")[0]["train_loss"])
