"""From a run to the next: what is taken over, what is chosen, what is given and stays."""

import io
from pathlib import Path

import pytest

import raydet
from raydet.cli import main as cli
from raydet.config import Config
from raydet.driver.from_run import from_run
from raydet.exceptions import ConfigError
from raydet.training.resume import find_checkpoint, saved_config


def test_more_training_has_the_runs_weights_data_and_settings(trained_detector: Path) -> None:
    begun, found = saved_config(find_checkpoint(trained_detector)), from_run(trained_detector, None, {})
    cfg = found.cfg
    assert cfg.model.weights == str(find_checkpoint(trained_detector).path)
    assert cfg.run.name == f"{trained_detector.name}_more" and Path(cfg.run.storage_path) == trained_detector.parent
    assert cfg.data == begun.data and cfg.model.num_classes == begun.model.num_classes
    assert cfg.optim.lr == pytest.approx(0.3 * begun.optim.lr, rel=0.02)
    assert any(line.startswith("from      the weights of step_") for line in found.lines())


def test_what_is_given_stays(trained_detector: Path) -> None:
    given = {
        "optim.lr": 0.5,
        "schedule.epochs": 3,
        "run.name": "mine",
        "quantization.skip": (),
        "schedule.min_lr": 1e-3,
    }
    cfg = from_run(trained_detector, None, given).cfg
    assert raydet.override(cfg, given) == cfg and cfg.quantization is not None


def test_quantization_makes_it_a_short_training_in_8_bits(trained_detector: Path) -> None:
    begun = saved_config(find_checkpoint(trained_detector))
    cfg = from_run(trained_detector, None, {"quantization.bits": 8}).cfg
    assert cfg.quantization is not None and cfg.quantization.skip == ("predict",)
    assert (
        cfg.run.name == f"{trained_detector.name}_int8" and cfg.schedule.epochs == 2 and cfg.schedule.warmup_epochs == 0
    )
    assert cfg.optim.lr == pytest.approx(0.1 * begun.optim.lr, rel=0.02)


def test_other_data_have_their_own_settings_for_the_same_network(
    trained_detector: Path, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = raydet.override(
        raydet.recipe("efficientdet_lite0"), {"model.image_size": 384, "data.mean": (0.5,) * 3, "model.num_classes": 9}
    )
    monkeypatch.setattr("raydet.driver.from_run.saved_config", lambda checkpoint: begun)
    found = from_run(trained_detector, shop, {"data.workers": 0})
    assert found.cfg.data.root == str(shop) and found.cfg.run.name == f"{shop.name}_from_{trained_detector.name}"
    assert found.cfg.model.image_size == 384 and found.cfg.model.num_classes is None
    assert found.cfg.data.mean == (0.5,) * 3
    assert {key for key, _, _ in found.chosen}.isdisjoint({"model.weights", "model.image_size"})
    assert found.came_from is not None and "model.name efficientdet_lite0" in found.came_from


def test_a_network_without_defaults_for_other_data_says_what_to_do(trained_detector: Path, shop: Path) -> None:
    with pytest.raises(ConfigError, match=r"efficientdet_demo has no defaults for other data; name a recipe and"):
        from_run(trained_detector, shop, {})


def test_two_sources_of_settings_are_refused(trained_detector: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["fit", "demo_detection", "--from", str(trained_detector)]) == 2
    assert "its settings or those of demo_detection" in capsys.readouterr().err
    assert cli.run(["fit", "demo_detection", "--from", str(trained_detector / "classes.json")]) == 2
    assert "is no run's folder" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="a configuration or start_from, not both"):
        raydet.fit(Config(), start_from=trained_detector)
    with pytest.raises(ConfigError, match="name a configuration, the place of a data set, or a run"):
        raydet.fit()


@pytest.mark.slow
def test_a_run_goes_on_in_8_bits_by_one_call_and_the_same_call_again_is_the_same_run(
    trained_classifier: Path, tmp_path: Path, labels_not_drawn: None
) -> None:
    changes = {"quantization.bits": 8, "schedule.epochs": 1, "run.storage_path": str(tmp_path)}
    first = raydet.fit(start_from=trained_classifier, changes=changes, out=(out := io.StringIO()))
    assert "INT8      " in out.getvalue() and " loaded from " in out.getvalue()
    assert raydet.fit(start_from=trained_classifier, changes=changes, out=io.StringIO()).best == first.best
