"""Ranges: where they come from, what is refused, and that integers then stay near floats."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from raydet import models
from raydet.config import Config, Quantization
from raydet.distributed import WorkerGroup
from raydet.exceptions import CalibrationError, NotCalibratedError
from raydet.quantization import calibrate, check_calibrated, quantize, quantizers, uncalibrated
from tests.workers import run_workers

LIBRARIES = ["pytorch-quantization", "modelopt"]


def images(count: int = 4, seed: int = 0, side: int = 64) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def settled() -> nn.Module:
    """A classifier whose BatchNorm knows its data and whose logits are of order one."""
    torch.manual_seed(0)
    model = models.build("efficientnet_demo", 10, drop_path=0.0).train()
    with torch.no_grad():
        for seed in range(8):
            model(images(seed=seed))
        model.eval()
        model.classifier.weight *= 1 / model(images()).std()
    return model


@pytest.fixture
def make(settled: nn.Module) -> Callable[..., nn.Module]:
    """A quantized copy of it without ranges."""

    def quantized(**fields: object) -> nn.Module:
        model = copy.deepcopy(settled)
        quantize(model, Quantization(**fields))  # type: ignore[arg-type]
        return model

    return quantized


def amax(model: nn.Module, name: str) -> Tensor:
    return model.get_buffer(f"{name}._amax")


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_max_covers_the_largest_value_of_all_batches(library: str, make: Callable[..., nn.Module]) -> None:
    cfg = Quantization(backend=library, calibration="max", batches=3)  # type: ignore[arg-type]
    model = make(backend=library)
    calibrate(model, [images(seed=s) for s in range(3)], cfg)
    wanted = max(images(seed=s).abs().max() for s in range(3))
    assert amax(model, "conv_stem.input_quantizer") == wanted


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_percentile_leaves_out_its_share_of_values(library: str, make: Callable[..., nn.Module]) -> None:
    x = images(16)
    model = make(backend=library)
    calibrate(model, [x], Quantization(backend=library, percentile=99.0))  # type: ignore[arg-type]
    inside = (x.abs() <= amax(model, "conv_stem.input_quantizer")).double().mean().item()
    assert abs(inside - 0.99) < 0.001


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("method", ["max", "percentile"])
def test_weights_have_the_largest_of_each_output_channel(
    library: str, method: str, make: Callable[..., nn.Module]
) -> None:
    model = make(backend=library)
    calibrate(model, [images()], Quantization(backend=library, calibration=method))  # type: ignore[arg-type]
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            found = layer.get_buffer("weight_quantizer._amax")
            assert torch.equal(found.flatten(), layer.weight.detach().abs().flatten(1).amax(1))
            assert found.ndim == layer.weight.ndim


def test_a_gate_has_the_range_of_a_sigmoid(make: Callable[..., nn.Module]) -> None:
    model = make()
    calibrate(model, [images()], Quantization())
    gates = [q.get_buffer("_amax") for name, q in quantizers(model).items() if name.endswith("gate_quantizer")]
    assert gates and all(gate == 1 for gate in gates)


def test_only_so_many_batches_are_taken(make: Callable[..., nn.Module]) -> None:
    taken = []

    def batches() -> Iterator[Tensor]:
        for seed in range(9):
            taken.append(seed)
            yield images(1, seed)

    calibrate(make(), batches(), Quantization(batches=2))
    assert taken == [0, 1]


def test_calibration_changes_nothing_but_ranges(make: Callable[..., nn.Module]) -> None:
    model = make().train()
    before = {key: value.clone() for key, value in model.state_dict().items() if not key.endswith("_amax")}
    calibrate(model, [images()], Quantization())
    assert model.training and all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_without_a_batch_there_is_no_range(make: Callable[..., nn.Module]) -> None:
    with pytest.raises(CalibrationError, match="the loader gave no batch"):
        calibrate(make(), [], Quantization())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused_with_its_place(bad: float, make: Callable[..., nn.Module]) -> None:
    broken = images(seed=1)
    broken[1, 2, 3, 4] = bad
    with pytest.raises(CalibrationError, match=r"quantizer 'conv_stem.input' saw NaN/Inf in batch 1"):
        calibrate(make(), [images(), broken], Quantization())


def test_after_a_failed_calibration_another_can_follow(make: Callable[..., nn.Module]) -> None:
    model = make()
    with pytest.raises(CalibrationError):
        calibrate(model, [images() * float("nan")], Quantization())
    calibrate(model, [images()], Quantization())
    check_calibrated(model)


def test_without_ranges_nothing_passes_for_an_answer(make: Callable[..., nn.Module]) -> None:
    model = make()
    assert model(images()).isnan().all()
    with pytest.raises(NotCalibratedError, match=r"89 of 96 quantizers have no range; call calibrate"):
        check_calibrated(model)
    calibrate(model, [images()], Quantization())
    assert not uncalibrated(model)
    check_calibrated(model)


@pytest.mark.parametrize("name", ["conv_stem.weight_quantizer", "classifier.input_quantizer"])
def test_a_single_quantizer_without_a_range_is_missed(name: str, make: Callable[..., nn.Module]) -> None:
    model = make()
    calibrate(model, [images()], Quantization())
    amax(model, name).fill_(float("nan"))
    with pytest.raises(NotCalibratedError, match=r"^1 of 96 quantizers have no range"):
        check_calibrated(model)


def test_a_tensor_of_zeros_has_a_range_and_stays_zero(make: Callable[..., nn.Module]) -> None:
    model = make()
    with torch.no_grad():
        model.conv_stem.weight.zero_()
    calibrate(model, [images()], Quantization(calibration="max"))
    assert model(images()).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_eight_bits_stay_near_floats_and_four_do_not(
    library: str, settled: nn.Module, make: Callable[..., nn.Module]
) -> None:
    x = images(8, seed=99)
    floats = settled(x)
    errors = []
    for bits in (8, 4):
        model = make(backend=library, bits=bits)
        calibrate(model, [images(seed=s) for s in range(4)], Quantization(calibration="max"))
        errors.append(((model(x) - floats).norm() / floats.norm()).item())
    assert errors[0] < 0.1 < errors[1]


def test_both_libraries_give_the_same_numbers(make: Callable[..., nn.Module]) -> None:
    outputs = []
    for library in LIBRARIES:
        model = make(backend=library)
        calibrate(model, [images()], Quantization(calibration="max"))
        outputs.append(model(images(seed=5)))
    # They divide in another order: a tie may fall to either side.
    assert torch.allclose(*outputs, atol=0.05 * outputs[0].abs().max().item())


@pytest.mark.parametrize("library", LIBRARIES)
def test_ranges_are_loaded_into_a_fresh_model_on_the_cpu(library: str, make: Callable[..., nn.Module]) -> None:
    model, fresh = make(backend=library), make(backend=library)
    calibrate(model, [images()], Quantization())
    assert fresh.load_state_dict(copy.deepcopy(model.state_dict())).missing_keys == []
    assert torch.equal(fresh(images(seed=3)), model(images(seed=3)))


@pytest.mark.parametrize("library", LIBRARIES)
def test_gradients_reach_every_parameter(library: str, make: Callable[..., nn.Module]) -> None:
    model = make(backend=library)
    calibrate(model, [images()], Quantization())
    model.train()
    model(images()).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_copy_holds_no_histograms(make: Callable[..., nn.Module]) -> None:
    model = make()
    calibrate(model, [images()], Quantization())
    held = [v for q in quantizers(model).values() for v in vars(q._calibrator).values()] if quantizers(model) else []
    assert held and not any(isinstance(v, Tensor) and v.numel() > 1 for v in held)


def _calibrate_here(cfg: Config, folder: Path, workers: WorkerGroup, tell: object) -> None:
    torch.manual_seed(0)
    model = models.build("efficientnet_demo", 10)
    quantize(model, Quantization())
    mine = [images(seed=workers.rank) * (1 + workers.rank)] if workers.rank < 2 else []
    calibrate(model, mine, Quantization(calibration="max"), workers)
    torch.save({name: q.get_buffer("_amax") for name, q in quantizers(model).items()}, folder / f"{workers.rank}.pt")


@pytest.mark.soak
def test_workers_agree_on_the_largest_range_also_one_without_a_batch(tmp_path: Path) -> None:
    run_workers(Config(), tmp_path, 3, _calibrate_here)
    of_ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(3)]
    assert all(torch.equal(ranges[name], value) for ranges in of_ranks for name, value in of_ranks[0].items())
    wanted = max((images(seed=rank) * (1 + rank)).abs().max() for rank in range(2))
    assert of_ranks[0]["conv_stem.input_quantizer"] == wanted
