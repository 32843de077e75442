"""A captured step does what a plain one does, whatever changes between steps. Graphs are played on the CPU here."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from raydet.bench.step import synthetic
from raydet.config import Config, override
from raydet.data import Batch
from raydet.distributed import WorkerGroup
from raydet.exceptions import ConfigError
from raydet.recipes import recipe
from raydet.tasks.build import make_task
from raydet.training.cuda_graph import WARM_UP, Capture, Gradients, Replayed
from raydet.training.state import build_model, new_state, resolve_model
from raydet.training.step import StepNumbers, Trainer
from tests.recording import capture_on_cpu

CHANGES = {"model.image_size": 64, "ema.decay": 0.9, "ema.warmup": True, "optim.batch_size": 4, "data.batch_size": 4}
KINDS = {
    "detector": ("demo_detection", {**CHANGES, "optim.name": "sgd", "model.image_size": 64}),
    "classifier": (
        "demo_classification",
        {**CHANGES, "augment.mixup": 0.2, "optim.name": "rmsprop", "optim.eps": 0.1, "model.drop_path": 0.3},
    ),
    "adamw": ("demo_classification", {**CHANGES, "optim.name": "adamw", "optim.eps": 0.1}),
}
RATES = {"detector": 0.01, "classifier": 1e-3, "adamw": 1e-4}
STEPS = WARM_UP + 2
CPU = torch.device("cpu")


def trainer(kind: str, capture: Capture | None, changes: dict[str, object] | None = None) -> Trainer:
    name, settings = KINDS[kind]
    cfg: Config = resolve_model(override(recipe(name), {**settings, **(changes or {})}))
    device = torch.device("cpu")
    model = build_model(cfg, 10)
    task = make_task(cfg, model, device)
    state = new_state(cfg, model, len(task.loss_names), device)
    state.train()
    return Trainer(cfg, task, state, WorkerGroup(), capture)


def batch(kind: str, seed: int, size: int = 4, boxes: int = 7) -> Batch:
    data = synthetic(size, 64, 10, seed)
    detects = kind == "detector"
    return Batch(
        images_B3HW=data.images_B3HW.contiguous(memory_format=torch.channels_last),
        rows_B=torch.arange(size),
        seeds_B=torch.arange(size) + 1000 * seed,
        labels_B=None if detects else data.classes_BM[:, 0],
        boxes_BM4=data.boxes_BM4[:, :boxes] if detects else None,
        classes_BM=data.classes_BM[:, :boxes] if detects else None,
    )


def weights(one: Trainer) -> dict[str, torch.Tensor]:
    assert one.state.average is not None
    average = {f"average.{k}": v for k, v in one.state.average.model.state_dict().items()}
    return {**one.state.model.state_dict(), **average, "sums": one.state.sums}


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_replayed_step_equals_an_eager_one_to_the_bit(kind: str) -> None:
    """Over steps of one batch and of two micro-batches, of other numbers of boxes, of another size."""
    eager, replayed = trainer(kind, None), trainer(kind, capture_on_cpu)
    eager.numbers = StepNumbers(eager.state.optimizer, torch.device("cpu"))  # float32, as a captured step has them
    sizes = [[4]] * STEPS + [[3], [4]] if kind == "classifier" else [[2, 2]] * STEPS
    for i, parts in enumerate(sizes):
        batches = [batch(kind, 2 * i + k, size, boxes=1 + i) for k, size in enumerate(parts)]
        for one in (eager, replayed):
            one.step(batches, RATES[kind] * (i + 1))
    for (key, a), b in zip(weights(eager).items(), weights(replayed).values(), strict=True):
        assert torch.equal(a, b), key
    assert replayed.state.step == replayed.state.epoch_steps == len(sizes)


def test_a_captured_step_reads_the_numbers_of_each_step_from_the_same_tensors() -> None:
    def of_two_steps(device: torch.device | None) -> tuple[list[list[float]], set[tuple[int, ...]]]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
        numbers, values, places = StepNumbers(optimizer, device), [], set()
        for lr, decay, random in ((0.1, 0.9, (0.3, 0.7)), (0.2, 0.99, (0.6, 0.1))):
            numbers.set(lr, decay, random)
            found = [optimizer.param_groups[0]["lr"], numbers.decay, *numbers.random]
            values.append([float(x) for x in found])
            places.add(tuple(x.data_ptr() for x in found if isinstance(x, torch.Tensor)))
        return values, places

    (plain, _), (captured, places) = of_two_steps(None), of_two_steps(CPU)
    assert plain == [[0.1, 0.9, 0.3, 0.7], [0.2, 0.99, 0.6, 0.1]]
    assert captured == [pytest.approx(values, rel=1e-6) for values in plain]
    assert len(places) == 1 and len(places.pop()) == 4


class Counted:
    """A capture that counts how often it was asked."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, work):  # type: ignore[no-untyped-def]
        self.times += 1
        return work


def test_more_boxes_than_there_is_room_for_are_captured_anew_and_none_is_lost() -> None:
    counted, seen = Counted(), []
    replayed = Replayed(lambda batches: seen.append(batches[0].classes_BM), counted, CPU)  # type: ignore[arg-type]
    crowd = batch("detector", 0)
    assert crowd.boxes_BM4 is not None and crowd.classes_BM is not None
    crowd = replace(crowd, boxes_BM4=crowd.boxes_BM4.repeat(1, 10, 1), classes_BM=crowd.classes_BM.repeat(1, 10))
    for one in [batch("detector", i, boxes=3 + i % 4) for i in range(WARM_UP + 3)] + [crowd, batch("detector", 9)]:
        replayed([one])
        assert (seen[-1] >= 0).sum() == (one.classes_BM >= 0).sum()
    assert counted.times == 2
    assert [s.shape[1] for s in seen[WARM_UP:]] == [32, 32, 32, 128, 128]


def test_gradients_lie_in_one_aligned_buffer_with_the_parameters_strides() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 2, 1)).to(
        memory_format=torch.channels_last
    )
    gradients = Gradients(list(model.parameters()))
    images = torch.randn(2, 3, 8, 8)
    gradients.take(model(images).square().sum(), add=False)
    first = gradients.flat.clone()
    gradients.take(model(images).square().sum(), add=True)
    assert first.abs().sum() > 0
    torch.testing.assert_close(gradients.flat, 2 * first)
    for parameter in model.parameters():
        assert parameter.grad is not None and parameter.grad.stride() == parameter.stride()
        assert (parameter.grad.data_ptr() - gradients.flat.data_ptr()) % 16 == 0


def test_what_asks_the_device_is_noticed() -> None:
    for asking in (
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x + torch.tensor([1.0]),
        lambda x: bool(x.any()),
    ):
        with pytest.raises(AssertionError, match=r"asked for|depends on values|host's numbers"):
            capture_on_cpu(lambda asking=asking: asking(torch.ones(3)))  # type: ignore[misc]


def test_a_graph_or_kernels_without_a_gpu_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"precision\.cuda_graph=true needs scaling.use_gpu=true"):
        override(recipe("demo_detection"), {"precision.cuda_graph": True})
    with pytest.raises(ConfigError, match=r"precision\.ops=cuda needs scaling.use_gpu=true"):
        override(recipe("demo_detection"), {"precision.ops": "cuda"})
