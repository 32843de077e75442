"""Ranges of fake-quantizers in a weight file, and whether they are those of a model: all of them or none.

A model with fake-quantizers has a range for each in its state dict, NaN until it is calibrated; a float model has none.
A range of other weights than those beside it gives wrong numbers without an error, so what was not in the file is NaN
afterwards, and a file whose quantizers stand elsewhere than the model's is refused.
"""

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from raydet.exceptions import CheckpointMismatch, WeightsError
from raydet.models.weights.key_maps import RANGE

_LEAST = 1e-6
"""Of a weight's range, as calibration has it: a channel of zeros has the range zero, and the scale is divided by."""


def split(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights and the ranges of a state dict."""
    weights = {key: x for key, x in state.items() if not key.endswith(RANGE)}
    return weights, {key: x for key, x in state.items() if key.endswith(RANGE)}


def of_weights(keys: Collection[str]) -> set[str]:
    """Return the names that the ranges of these weights have in a quantized model."""
    return {f"{key}_quantizer{RANGE}" for key in keys}


def check(path: Path, wanted: dict[str, Tensor], given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the ranges in the model's shapes; none where either side has none.

    Args:
        path: of the file.
        wanted: the model's ranges that the file should have.
        given: the file's, by the model's names.

    Raises:
        CheckpointMismatch: the names or sizes differ. WeightsError: a range that is none.
    """
    if not wanted or not given:
        return {}
    sizes = [key for key in given if key in wanted and given[key].numel() != wanted[key].numel()]
    faults = {
        "missing": [_quantizer(key) for key in wanted if key not in given],
        "unknown": sorted(_quantizer(key) for key in given if key not in wanted),
        "of another size": [f"{_quantizer(key)} {given[key].numel()}, {wanted[key].numel()} wanted" for key in sizes],
    }
    if any(faults.values()):
        lists = "; ".join(f"{what}: {_first(names)}" for what, names in faults.items() if names)
        raise CheckpointMismatch(
            f"{path}: checkpoint holds ranges for {len(given)} quantizers, model has {len(wanted)} ({lists}); "
            f"quantization.skip must leave out what was left out when it was trained"
        )
    for key, amax in given.items():
        is_weight = key.endswith(f"weight_quantizer{RANGE}")
        if not torch.isfinite(amax).all() or amax.min() < 0 or (amax.min() == 0 and not is_weight):
            raise WeightsError(
                f"{path}: the range of {_quantizer(key)} is {amax.min().item():g}, "
                f"it must be a number above 0; the checkpoint was not calibrated or is damaged"
            )
    # Files of NVIDIA have [C, 1] where squeeze-excite is made of linear layers; [] or [1] over a whole tensor.
    fitted = {key: amax.reshape(wanted[key].shape) for key, amax in given.items()}
    return {key: x.clamp(min=_LEAST) if key.endswith(f"weight_quantizer{RANGE}") else x for key, x in fitted.items()}


@torch.no_grad()
def put(places: dict[str, Tensor], ranges: dict[str, Tensor]) -> None:
    """Copy the ranges into a model's; a range that is not given becomes NaN, the gates' fixed ones excepted."""
    for key, place in places.items():
        if key in ranges:
            place.copy_(ranges[key])
        elif not key.endswith(f"gate_quantizer{RANGE}"):
            place.fill_(torch.nan)


def note(places: dict[str, Tensor], given: dict[str, Tensor]) -> str | None:
    """Return what the user should know of a model's ranges after loading, given the file's; None if all is well."""
    if not places and given:
        return (
            f"the file holds ranges for {len(given)} quantizers, of which this float model has none; "
            f"to load them start from a *_qat recipe or give --quantization.bits 8"
        )
    empty = sum(not torch.isfinite(place).all() for place in places.values())
    if not empty:
        return None
    return f"{empty} of the model's {len(places)} quantizers have no range yet; calibration finds them"


def _quantizer(key: str) -> str:
    return key.removesuffix(RANGE)


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
