"""Ranges for fake-quantizers: of weights their largest value, of activations a percentile or the largest, over batches.

Workers take the largest of their ranges, before DistributedDataParallel is built, which would give all of them rank
0's. Given up: the entropy and MSE searches of the libraries. Entropy destroys nets with squeeze-excite (92 to 10 %
top-1) and takes seconds a quantizer; MSE needs CUDA in one library and is for weights only in the other.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from raydet.config import Quantization
from raydet.distributed import WorkerGroup
from raydet.exceptions import CalibrationError, NotCalibratedError
from raydet.quantization.libraries import Quantizer, collect, stop_collecting
from raydet.quantization.placement import quantizers

_LEAST = 1e-6
"""No range is smaller: of a tensor of zeros it would be zero, and the scale is divided by."""


@torch.no_grad()
def calibrate(
    model: nn.Module, batches: Iterable[Tensor], cfg: Quantization, workers: WorkerGroup | None = None
) -> dict[str, Tensor]:
    """Give every fake-quantizer of `model` its range, in place; return the ranges by name.

    Args:
        model: quantized by `quantize`, on the device of the batches; run in eval mode and put back as it was.
        batches: images_B3HW, normalised, of which this worker looks at the first cfg.batches.
        cfg: method, percentile and number of batches.
        workers: the other workers, which call this too; a range is the largest of all workers'.

    Raises:
        CalibrationError: no batch, or a value that is not finite; names the quantizer and the batch.
    """
    workers = workers or WorkerGroup(device=next(model.parameters()).device)
    found = {name: q for name, q in quantizers(model).items() if not name.endswith("gate_quantizer")}
    with _collecting(model, found, cfg) as batch:
        seen = 0
        for batch[0], images_B3HW in zip(range(cfg.batches), batches, strict=False):
            model(images_B3HW)
            seen += 1
        if not workers.sum_(torch.tensor(float(seen), device=workers.device)).item():
            raise CalibrationError("the loader gave no batch; are there training images?")
        for name, module in found.items() if seen else ():
            _take_range(name, module, cfg)
    ranges = {name: cast("Quantizer", module)._amax for name, module in found.items()}
    for amax in ranges.values():
        # NaN where this worker had no batch: the others' ranges then stand.
        workers.max_(amax.nan_to_num_(nan=_LEAST).clamp_(min=_LEAST))
    return ranges


@contextmanager
def _collecting(model: nn.Module, found: dict[str, nn.Module], cfg: Quantization) -> Iterator[list[int]]:
    """Let quantizers pass values through and collect; yields a list whose one item is the number of the batch."""
    batch, training = [0], model.training
    model.eval()
    with ExitStack() as stack:
        for name, module in found.items():
            collect(module, histogram=_by_share(module, cfg))
            stack.callback(stop_collecting, module)
            stack.callback(module.register_forward_pre_hook(_check_finite(name, batch)).remove)
        try:
            yield batch
        finally:
            model.train(training)


def _by_share(quantizer: nn.Module, cfg: Quantization) -> bool:
    """Say whether a quantizer's range is a percentile: of activations only."""
    return cfg.calibration == "percentile" and cast("Quantizer", quantizer)._amax.ndim == 0


def _check_finite(name: str, batch: list[int]) -> Any:
    def check(module: nn.Module, args: tuple[Tensor]) -> None:
        if not torch.isfinite(args[0]).all():
            raise CalibrationError(
                f"quantizer '{name.removesuffix('_quantizer')}' saw NaN/Inf in batch {batch[0]}; "
                "are the weights those of a trained model?"
            )

    return check


def _take_range(name: str, module: nn.Module, cfg: Quantization) -> None:
    quantizer = cast("Quantizer", module)
    try:
        if _by_share(module, cfg):
            quantizer.load_calib_amax("percentile", percentile=cfg.percentile)
        else:
            quantizer.load_calib_amax()
    except RuntimeError as error:
        raise CalibrationError(f"quantizer '{name}' saw no value, so it has no range: {error}") from error


def uncalibrated(model: nn.Module) -> list[str]:
    """Return the names of the fake-quantizers without a range."""
    return [name for name, q in quantizers(model).items() if not torch.isfinite(cast("Quantizer", q)._amax).all()]


def check_calibrated(model: nn.Module) -> None:
    """Raise NotCalibratedError unless every fake-quantizer of `model` has a range."""
    missing = uncalibrated(model)
    if missing:
        raise NotCalibratedError(
            f"{len(missing)} of {len(quantizers(model))} quantizers have no range; call calibrate() first"
        )


def in_words(cfg: Quantization) -> str:
    """Return how a model is quantized, for people."""
    how = f"{cfg.percentile:g} % of the values" if cfg.calibration == "percentile" else "the largest value"
    skipped = f"; in floats: {', '.join(cfg.skip)}" if cfg.skip else ""
    return f"{cfg.bits} bits ({cfg.backend}); ranges that the weights lack: {how} of {cfg.batches} batches{skipped}"
