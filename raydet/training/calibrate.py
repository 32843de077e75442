"""Post-training quantization: ranges for a trained model, on the first training batches it is configured with."""

from collections.abc import Iterator

from torch import Tensor, nn

from raydet.config import Config
from raydet.data import Index, TrainLoader, open_split
from raydet.distributed import WorkerGroup
from raydet.quantization import calibrate, check_calibrated, is_quantized, quantize
from raydet.tasks.base import Task
from raydet.tasks.build import make_task
from raydet.training.precision import prepare_device


def calibrate_on(index: Index, cfg: Config, model: nn.Module, task: Task, workers: WorkerGroup) -> None:
    """Give the fake-quantizers of `model` their ranges, in place, on the batches of epoch 0 as they are trained on.

    Every worker looks at the same images, those of a single worker, so that ranges do not depend on their number.

    Raises:
        CalibrationError: no batch, or a value that is not finite.
    """
    assert cfg.quantization is not None
    model.to(workers.device)
    loader = TrainLoader(cfg, index)
    try:
        calibrate(model, _batches(loader, task), cfg.quantization, workers)
    finally:
        loader.close()
    check_calibrated(model)


def _batches(loader: TrainLoader, task: Task) -> Iterator[Tensor]:
    for micro_batches in loader.epoch(0):
        for batch in micro_batches:
            yield task.inputs(batch)


def post_training(cfg: Config, model: nn.Module) -> None:
    """Give `model`, in place, fake-quantizers where it is in floats, and ranges by the training split of `cfg`.

    Afterwards it is in eval mode, on the CPU.

    Raises:
        CalibrationError: no batch, or a value that is not finite. DataError: the split cannot be read.
        ConfigError: quantization.skip or quantization.backend cannot be used.
    """
    assert cfg.quantization is not None
    if not is_quantized(model):
        quantize(model, cfg.quantization)
    device = prepare_device(cfg)
    index = open_split(cfg, "train")
    calibrate_on(index, cfg, model, make_task(cfg, model.to(device), device), WorkerGroup(device=device))
    model.eval().cpu()
