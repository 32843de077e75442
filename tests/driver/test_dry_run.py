"""What a dry run says: settings against the recipe, steps, memory; and that it does nothing."""

import json
from pathlib import Path

import pytest
import torch

from raydet.cli import main as cli
from raydet.config import Config, override
from raydet.driver.dry_run import dry_run
from raydet.driver.expected_memory import activation_bytes, memory_bytes
from raydet.driver.plan import make_plan
from raydet.quantization import quantizers
from raydet.training.state import build_model, new_state
from tests.commands import words


def test_a_dry_run_shows_data_steps_memory_and_the_settings_that_differ(
    classification: Config, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.run(["fit", *words(override(classification, {"optim.lr": 0.5})), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "data      60 training and 30 validation images" in out
    assert "steps     16 of 8 images, 16 to go" in out and "MiB besides torch itself" in out
    assert "optim.lr: 0.003 -> 0.5" in out and "schedule.epochs: " in out and "optim.momentum" not in out
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_in_json_is_one_object(classification: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["fit", *words(classification), "--dry-run", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["steps"] == 16 and values["config"]["optim.lr"] == 0.003 and "data.root" in values["changes"]


@pytest.mark.slow
def test_a_dry_run_does_not_fail_where_a_run_trains(detection: Config) -> None:
    """D0 at 128 px: one pixel on its coarsest level, which BatchNorm trains on from two images on."""
    values = dry_run(override(detection, {"model.name": "efficientdet_d0", "model.image_size": 128}), quiet=True)
    assert values["memory_bytes"]["activations"] > 0


@pytest.mark.slow
def test_a_dry_run_of_a_finished_run_has_nothing_to_go(classification: Config, begun_run: Path) -> None:
    from raydet.driver.fit import fit

    fit(classification)
    values = dry_run(classification, quiet=True)
    assert (values["steps"], values["steps_to_go"]) == (16, 0)


def test_a_dry_run_refuses_what_a_run_would(classification: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["fit", *words(override(classification, {"model.num_classes": 3})), "--dry-run"]) == 2
    assert "has 10" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adamw"])
def test_memory_of_weights_and_optimiser_is_what_a_state_holds(classification: Config, optimizer: str) -> None:
    plan = make_plan(override(classification, {"optim.name": optimizer}))
    foretold = memory_bytes(plan)
    model = build_model(plan.cfg, 10)
    state = new_state(plan.cfg, model, 1, torch.device("cpu"))
    model(torch.zeros(2, 3, 64, 64), torch.zeros(2, dtype=torch.int64)).sum().backward()
    state.optimizer.step()

    def size(tensors: dict[str, torch.Tensor], least: int = 0) -> int:
        return sum(t.numel() * t.element_size() for t in tensors.values() if t.numel() > least)

    held = state.tensors()
    assert foretold["weights"] == size(held["model"]) and foretold["average"] == size(held["ema"])
    assert foretold["optimizer"] == pytest.approx(size(held["optim"]), rel=1e-3)  # less the step counts


@pytest.mark.parametrize("quantized", [False, True], ids=["floats", "integers"])
def test_memory_of_activations_is_what_autograd_keeps(quantized: bool, classification: Config) -> None:
    cfg = make_plan(classification).cfg
    cfg = override(cfg, {"quantization.bits": 8}) if quantized else cfg
    kept: dict[int, torch.Tensor] = {}
    model = build_model(cfg, 10).train()
    for quantizer in quantizers(model).values():
        quantizer.get_buffer("_amax").fill_(1.0)
    weights = {p.data_ptr() for p in model.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim == 0 or tensor.shape[0] == 2:  # of a batch of two; weights on a grid are kept once
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(torch.zeros(2, 3, 64, 64), torch.zeros(2, dtype=torch.int64))
    true = sum(t.untyped_storage().nbytes() for ptr, t in kept.items() if ptr not in weights)
    assert 2 * activation_bytes(build_model(cfg, 10).to("meta"), 64) == pytest.approx(true, rel=0.05)


@pytest.mark.slow
def test_memory_follows_the_micro_batch_and_the_precision(classification: Config) -> None:
    whole = memory_bytes(make_plan(classification))["activations"]
    half = memory_bytes(make_plan(override(classification, {"data.batch_size": 4})))["activations"]
    shared = memory_bytes(make_plan(override(classification, {"scaling.num_workers": 2})))["activations"]
    bf16 = memory_bytes(make_plan(override(classification, {"precision.mode": "bf16"})))["activations"]
    assert whole == 2 * half == 2 * shared == 2 * bf16
