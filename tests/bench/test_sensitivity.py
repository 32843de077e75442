"""What INT8 costs, group by group and way by way, without training."""

from pathlib import Path

import pytest
import torch

from raydet.bench.sensitivity import only, open_floats, rank, sensitivity_of
from raydet.config import Config, override
from raydet.exceptions import ConfigError
from raydet.inference.trained_model import open_source
from raydet.quantization import calibrate, placements, quantize
from tests.workers import trained

WAYS = {"quantization.batches": 2, "quantization.calibration": "max"}


@pytest.fixture
def floats(classification: Config, tmp_path: Path) -> Path:
    """A trained toy classifier's folder."""
    return trained(override(classification, {"schedule.epochs": 1}), tmp_path / "floats")


def test_every_group_is_measured_alone_and_the_costliest_comes_first(floats: Path) -> None:
    found = sensitivity_of(open_floats(floats, {**WAYS, "quantization.bits": 3}), 30)
    model = open_source(floats, {}).model
    assert set(found.alone) == {placed.group for placed in placements(model)}
    costs = [scores["eval_loss"] for scores in found.alone.values()]
    assert costs == sorted(costs, reverse=True) and costs[0] > costs[-1]
    assert found.images == 30 and found.score == "top1"


def test_floats_are_measured_before_anything_is_quantized(floats: Path) -> None:
    three = sensitivity_of(open_floats(floats, {**WAYS, "quantization.bits": 3}), 30)
    eight = sensitivity_of(open_floats(floats, WAYS), 30)
    assert three.floats == eight.floats
    assert abs(eight.int8["eval_loss"] - eight.floats["eval_loss"]) < abs(
        three.int8["eval_loss"] - three.floats["eval_loss"]
    )


def test_where_integers_cost_nothing_nothing_is_left_in_floats(floats: Path) -> None:
    found = sensitivity_of(open_floats(floats, WAYS), 30)
    near = found.int8["top1"] >= found.floats["top1"] - 0.01
    assert bool(found.skip) != near and (found.skip or found.skipped == found.int8)


def test_with_no_group_working_the_net_is_that_of_floats(floats: Path) -> None:
    plain, quantized = open_source(floats, {}).model, open_floats(floats, WAYS)
    assert quantized.cfg.quantization is not None
    quantize(quantized.model, quantized.cfg.quantization)
    images_B3HW = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    calibrate(quantized.model, [images_B3HW], quantized.cfg.quantization)
    wanted, integers = plain(images_B3HW), quantized.model(images_B3HW)
    with only(quantized.model, set()):
        assert torch.equal(quantized.model(images_B3HW), wanted)
    assert torch.equal(quantized.model(images_B3HW), integers) and not torch.equal(integers, wanted)


def test_ways_come_back_the_best_first_with_what_they_were(floats: Path) -> None:
    ways = [{"quantization.bits": 2}, {"quantization.bits": 8}, {"quantization.bits": 4}]
    found = rank(floats, ways, {"quantization.batches": 2}, images=30)
    losses = [one.metrics["eval_loss"] for one in found]
    assert losses == sorted(losses) and sorted(ways, key=str) == sorted((dict(one.changes) for one in found), key=str)
    assert len(set(losses)) == 3


def test_what_is_quantized_already_has_no_floats_to_compare_with(
    floats: Path, classification: Config, tmp_path: Path
) -> None:
    changes = {"model.weights": str(floats), "quantization.batches": 1, "schedule.epochs": 1}
    folder = trained(override(classification, changes), tmp_path / "qat")
    for refused in (lambda: open_floats(folder, {}), lambda: rank(folder, [{}])):
        with pytest.raises(ConfigError, match="must be a float checkpoint or run"):
            refused()
