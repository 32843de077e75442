"""The training step on a GPU: the same losses as on the CPU, in every precision, without one synchronisation."""

from collections.abc import Callable

import pytest
import torch

from raydet.bench.step import ours, synthetic
from raydet.config import Config, override
from raydet.recipes import recipe
from raydet.training.state import resolve_model
from raydet.training.step import Trainer
from tests.gpu.marks import NEEDS_GPU

pytestmark = NEEDS_GPU
DETECTOR = ("efficientdet_d0_coco", {"model.image_size": 128})
SMALL = ("demo_detection", {"model.image_size": 128, "optim.name": "sgd"})  # compiled in seconds
CLASSIFIER = ("efficientnet_b0_imagenet", {"model.image_size": 64, "augment.autoaugment": None})


def step_on(case: tuple[str, dict[str, object]], device: str, changes: dict[str, object]) -> Callable[[], Trainer]:
    cfg: Config = override(recipe(case[0]), {**case[1], "optim.batch_size": 4, "data.batch_size": 4, **changes})
    cfg = resolve_model(override(cfg, {"scaling.use_gpu": device == "cuda"}))
    data = synthetic(4, int(cfg.model.image_size or 0), 10)
    return ours(cfg, data, 10, torch.device(device))


def losses(case: tuple[str, dict[str, object]], device: str, changes: dict[str, object], steps: int = 3) -> list[float]:
    step, seen = step_on(case, device, changes), []
    for _ in range(steps):
        trainer = step()
        seen.append(float(trainer.state.sums[0]))
    return seen


@pytest.mark.parametrize("case", [DETECTOR, CLASSIFIER], ids=["detection", "classification"])
def test_losses_equal_the_cpus(case: tuple[str, dict[str, object]]) -> None:
    one, other = (losses(case, device, {}) for device in ("cpu", "cuda"))
    assert other == pytest.approx(one, rel=1e-3)


@pytest.mark.parametrize("mode", ["tf32", "bf16", "fp16"])
@pytest.mark.parametrize("case", [DETECTOR, CLASSIFIER], ids=["detection", "classification"])
def test_mixed_precision_learns_the_same(case: tuple[str, dict[str, object]], mode: str) -> None:
    full, mixed = losses(case, "cuda", {}), losses(case, "cuda", {"precision.mode": mode})
    assert mixed == pytest.approx(full, rel=0.05)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("mode", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("case", [DETECTOR, CLASSIFIER], ids=["detection", "classification"])
def test_a_step_never_waits_for_the_gpu(case: tuple[str, dict[str, object]], mode: str, graph: bool) -> None:
    step = step_on(case, "cuda", {"precision.mode": mode, "ema.decay": 0.999, "precision.cuda_graph": graph})
    for _ in range(5):  # first steps allocate, choose algorithms, fill the optimiser's state, are captured
        step()
    torch.cuda.set_sync_debug_mode("error")
    step()


def test_compiled_steps_learn_the_same() -> None:
    one, other = (losses(SMALL, "cuda", {"precision.compile": c}) for c in (False, True))
    assert other == pytest.approx(one, rel=1e-3)


@pytest.mark.parametrize(
    "changes", [{}, {"precision.mode": "bf16"}, {"precision.mode": "fp16"}, {"precision.ops": "torch"}]
)
@pytest.mark.parametrize("case", [DETECTOR, CLASSIFIER], ids=["detection", "classification"])
def test_captured_steps_learn_the_same(case: tuple[str, dict[str, object]], changes: dict[str, object]) -> None:
    graph = {**changes, "precision.cuda_graph": True, "ema.decay": 0.9}
    one, other = losses(case, "cuda", changes, 8), losses(case, "cuda", graph, 8)
    assert len(set(other)) == 8 and other == pytest.approx(one, rel=1e-3)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adamw"])
def test_every_optimizer_can_be_captured(name: str) -> None:
    settings = {"optim.name": name, "optim.lr": 1e-3, "optim.eps": 0.1}
    one, other = (losses(CLASSIFIER, "cuda", {**settings, "precision.cuda_graph": graph}, 8) for graph in (False, True))
    assert other == pytest.approx(one, rel=1e-3)


def test_a_compiled_step_can_be_captured() -> None:
    one, both = (losses(SMALL, "cuda", c, 6) for c in ({}, {"precision.compile": True, "precision.cuda_graph": True}))
    assert both == pytest.approx(one, rel=1e-3)


def test_kernels_and_pytorch_learn_the_same() -> None:
    pytest.importorskip("cupy")
    one, other = (losses(DETECTOR, "cuda", {"precision.ops": way}, 6) for way in ("torch", "cuda"))
    assert other == pytest.approx(one, rel=1e-4)
