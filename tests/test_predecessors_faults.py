"""Faults of the predecessors (NVIDIA's examples, effdet) that raydet must not have; each names its file there.

Others are held where the code is: boxes outside the canvas (tests/data/images/test_geometry.py), wholly missed images
(test_metrics.py), padded 96-class heads (models/test_weights.py), averages paired by position (test_optim.py),
fewer candidates than top-k and shared anchors (test_boxes.py, test_anchors.py), AutoAugment (data/test_augment.py).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from raydet.bench.step import Synthetic, ours, synthetic
from raydet.config import Config, override
from raydet.data import Batch
from raydet.distributed import WorkerGroup
from raydet.recipes import recipe
from raydet.runs import checkpoint_store
from raydet.tasks.build import make_task
from raydet.training.state import build_model, new_state, resolve_model
from raydet.training.step import Trainer
from tests.workers import newest, trained

CPU = torch.device("cpu")


@pytest.mark.slow
def test_the_last_epoch_is_saved_and_scored_whatever_the_rhythm(classification: Config, tmp_path: Path) -> None:
    """train.py saves every tenth epoch and judges the best only then: epoch 309 of 310 is lost.

    Its 300-epoch recipe runs 310 without a word; ours runs n, and says so where there are more in cooldown_epochs.
    """
    cfg = override(classification, {"run.checkpoint_epochs": 10, "run.eval_epochs": 10})
    saved = newest(trained(cfg, tmp_path / "a"))
    assert saved.epoch == cfg.schedule.epochs == cfg.schedule.total_epochs == 2 and "top1" in saved.metrics


def test_the_loss_scale_is_in_the_checkpoint(detection: Config) -> None:
    """train.py never saves its GradScaler, so a resume restarts the scale."""
    cfg = resolve_model(override(detection, {"precision.mode": "bf16"}))
    model = build_model(cfg, 10)
    state = new_state(cfg, model, 3, CPU)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    other = new_state(cfg, build_model(cfg, 10), 3, CPU)
    other.scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    other.restore(state.tensors(), state.record())
    assert other.scaler.get_scale() == 128.0


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.slow
def test_gradients_are_exchanged_and_averaged_once_a_step_however_many_micro_batches(
    detection: Config, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ConvNets all-reduces at each micro-step and moves its average at each, too."""
    cfg = resolve_model(override(detection, {"data.batch_size": 1, "optim.batch_size": 4}))
    model = build_model(cfg, 10)
    task = make_task(cfg, model, CPU)
    state = new_state(cfg, model, 3, CPU)
    trainer = Trainer(cfg, task, state, WorkerGroup(0, 1))
    network = torch.nn.parallel.DistributedDataParallel(model)
    exchanged: list[bool] = []
    network.register_forward_pre_hook(lambda module, _: exchanged.append(module.require_backward_grad_sync))
    trainer.network = network
    averaged: list[float] = []
    assert state.average is not None
    monkeypatch.setattr(state.average, "update", averaged.append)
    data = synthetic(4, 64, 10)
    trainer.step([one(data, i) for i in range(4)], 1e-3)
    assert exchanged == [False, False, False, True] and averaged == [state.average.decay(1)]


def one(data: Synthetic, i: int) -> Batch:
    part = slice(i, i + 1)
    return Batch(
        images_B3HW=data.images_B3HW[part],
        rows_B=torch.tensor([i]),
        seeds_B=torch.tensor([i]),
        boxes_BM4=data.boxes_BM4[part],
        classes_BM=data.classes_BM[part],
    )


@pytest.mark.slow
def test_keep_means_how_many_are_kept(classification: Config, tmp_path: Path) -> None:
    """ConvNets' keep_last_n=0 keeps all, -1 only the last: the reverse of its help."""
    changes = {"run.keep": 1, "schedule.epochs": 3, "optim.lr": 1e-9, "ema.decay": None, "model.freeze_bn": True}
    folder = trained(override(classification, changes), tmp_path / "run")
    left = {path.name for path in (folder / "checkpoints").iterdir()}
    best = checkpoint_store.best(folder / "checkpoints", "top1", "max")
    assert best is not None and left == {"step_00000024", best.path.name}


@pytest.mark.slow
def test_settings_are_not_accepted_and_ignored() -> None:
    """--drop, --fill-color, --mixup and --lr-noise-std of train.py change nothing; each of ours must."""
    base = override(recipe("efficientdet_d0_coco"), {"data.batch_size": 2, "optim.batch_size": 2})
    base = resolve_model(override(base, {"model.image_size": 128}))

    def loss(changes: dict[str, float]) -> float:
        return float(ours(override(base, changes), synthetic(2, 128, 10), 10, CPU)().state.sums[0])

    usual = loss({})
    for key, value in {"model.drop_path": 0.9, "loss.gamma": 3.0, "loss.box_weight": 1.0, "loss.alpha": 0.9}.items():
        assert loss({key: value}) != usual, key
