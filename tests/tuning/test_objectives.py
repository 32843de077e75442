"""What a net costs: its size and the time of one image."""

import pytest

from raydet import models
from raydet.config import Config, override
from raydet.recipes import recipe
from raydet.tuning.objectives import measure


def net(**changes: object) -> Config:
    resolved = {"model.image_size": 64, "model.num_classes": 10}
    return override(recipe("demo_classification"), resolved | {k.replace("_", ".", 1): v for k, v in changes.items()})


def test_the_size_is_that_of_the_weights() -> None:
    model = models.build("efficientnet_demo", 10)
    megabytes = sum(4 * t.numel() if t.is_floating_point() else 8 for t in model.state_dict().values()) / 1e6
    assert measure(net(), ("size_mb",)) == {"size_mb": pytest.approx(megabytes)}


@pytest.mark.slow
def test_a_larger_image_takes_longer() -> None:
    small, large = (measure(net(model_image_size=size), ("latency_ms",))["latency_ms"] for size in (32, 256))
    assert 0 < small < large


def test_a_quantized_net_is_measured_in_floats() -> None:
    assert measure(net(quantization_bits=8), ("size_mb",)) == measure(net(), ("size_mb",))


def test_nothing_asked_nothing_measured() -> None:
    assert measure(net(), ()) == {}
