"""What INT8 costs, group by group and way by way, without training."""

from pathlib import Path

import pytest
import torch

from raydet.bench.sensitivity import Sensitivity, only, open_floats, rank_calibrations, sensitivity_of
from raydet.exceptions import ConfigError
from raydet.inference.trained_model import open_source
from raydet.quantization import calibrate, placements, quantize

WAYS = {"quantization.batches": 2, "quantization.calibration": "max"}


@pytest.fixture(scope="module")
def three(trained_classifier: Path) -> Sensitivity:
    """What three bits cost."""
    return sensitivity_of(open_floats(trained_classifier, {**WAYS, "quantization.bits": 3}), 30)


@pytest.fixture(scope="module")
def eight(trained_classifier: Path) -> Sensitivity:
    """What eight bits cost."""
    return sensitivity_of(open_floats(trained_classifier, WAYS), 30)


@pytest.mark.slow
def test_every_group_is_measured_alone_and_the_costliest_comes_first(
    three: Sensitivity, trained_classifier: Path
) -> None:
    model = open_source(trained_classifier, {}).model
    assert set(three.alone) == {placed.group for placed in placements(model)}
    costs = [scores["eval_loss"] for scores in three.alone.values()]
    assert costs == sorted(costs, reverse=True) and costs[0] > costs[-1]
    assert three.images == 30 and three.score == "top1"


@pytest.mark.slow
def test_floats_are_measured_before_anything_is_quantized(three: Sensitivity, eight: Sensitivity) -> None:
    assert three.floats == eight.floats
    assert abs(eight.int8["eval_loss"] - eight.floats["eval_loss"]) < abs(
        three.int8["eval_loss"] - three.floats["eval_loss"]
    )


def test_where_integers_cost_nothing_nothing_is_left_in_floats(eight: Sensitivity) -> None:
    near = eight.int8["top1"] >= eight.floats["top1"] - 0.01
    assert bool(eight.skip) != near and (eight.skip or eight.skipped == eight.int8)


def test_with_no_group_working_the_net_is_that_of_floats(trained_classifier: Path) -> None:
    plain, quantized = open_source(trained_classifier, {}).model, open_floats(trained_classifier, WAYS)
    assert quantized.cfg.quantization is not None
    quantize(quantized.model, quantized.cfg.quantization)
    images_B3HW = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    calibrate(quantized.model, [images_B3HW], quantized.cfg.quantization)
    wanted, integers = plain(images_B3HW), quantized.model(images_B3HW)
    with only(quantized.model, set()):
        assert torch.equal(quantized.model(images_B3HW), wanted)
    assert torch.equal(quantized.model(images_B3HW), integers) and not torch.equal(integers, wanted)


@pytest.mark.slow
def test_ways_come_back_the_best_first_with_what_they_were(trained_classifier: Path) -> None:
    ways = [{"quantization.bits": 2}, {"quantization.bits": 8}, {"quantization.bits": 4}]
    found = rank_calibrations(trained_classifier, ways, {"quantization.batches": 2}, images=30)
    losses = [one.metrics["eval_loss"] for one in found]
    assert losses == sorted(losses) and sorted(ways, key=str) == sorted((dict(one.changes) for one in found), key=str)
    assert len(set(losses)) == 3


@pytest.mark.slow
def test_what_is_quantized_already_has_no_floats_to_compare_with(quantized_classifier: Path) -> None:
    for refused in (
        lambda: open_floats(quantized_classifier, {}),
        lambda: rank_calibrations(quantized_classifier, [{}]),
    ):
        with pytest.raises(ConfigError, match="must be a float checkpoint or run"):
            refused()
