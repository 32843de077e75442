"""The training step on a GPU: the same losses as on the CPU, in every precision, without one synchronisation."""

from collections.abc import Callable, Iterator

import pytest
import torch

from raydet.bench import ours, synthetic
from raydet.config import Config, override
from raydet.loop import Trainer
from raydet.recipes import recipe
from raydet.state import resolve_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
DETECTOR = ("efficientdet_d0_coco", {"model.image_size": 128})
CLASSIFIER = ("efficientnet_b0_imagenet", {"model.image_size": 64, "augment.autoaugment": None})


@pytest.fixture(autouse=True)
def watched() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


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


@pytest.mark.parametrize("mode", ["fp32", "bf16", "fp16"])
def test_a_step_never_waits_for_the_gpu(mode: str) -> None:
    step = step_on(DETECTOR, "cuda", {"precision.mode": mode, "ema.decay": 0.999})
    for _ in range(3):  # first steps allocate, choose algorithms and fill the optimiser's state
        step()
    torch.cuda.set_sync_debug_mode("error")
    step()


def test_compiled_steps_learn_the_same() -> None:
    one, other = (losses(DETECTOR, "cuda", {"precision.compile": c}) for c in (False, True))
    assert other == pytest.approx(one, rel=1e-3)
