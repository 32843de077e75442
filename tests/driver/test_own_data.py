"""A configuration for data of one's own: what is chosen and why, what is given and stays."""

import io
from pathlib import Path

import pytest

import raydet
from raydet.config import override
from raydet.driver.own_data import OwnData, own_data
from raydet.driver.plan import make_plan
from raydet.exceptions import ConfigError
from raydet.models.weights import published
from raydet.recipes import RECIPES, recipe
from raydet.recipes.own_data import CLASSIFIERS, DETECTORS, OWN_DATA

RANDOM = {"model.weights": None}
"""No weights can be downloaded here."""


def chosen(found: OwnData) -> dict[str, str]:
    return {key: value for key, value, _ in found.chosen}


def test_boxes_give_a_detector_with_size_anchors_batch_and_epochs(toy_detection: Path) -> None:
    found = own_data(toy_detection, RANDOM)
    cfg = found.cfg
    assert (cfg.recipe, cfg.model.name, cfg.run.name) == ("efficientdet_d0", "efficientdet_d0", "detection")
    assert (cfg.data.train, cfg.data.val) == ("annotations/instances_train.json", "annotations/instances_val.json")
    assert {"model.image_size", "data.batch_size", "schedule.epochs", "optim.lr", "ema.decay"} <= set(chosen(found))
    assert cfg.model.image_size == 256 and cfg.data.batch_size == 4  # digits are large; 24 images
    assert cfg.schedule.epochs * 6 == pytest.approx(1000, abs=6)
    said, *lines = found.lines()
    assert said.startswith(f"found     coco in {toy_detection}: train annotations/instances_train.json, val ")
    assert all(line.startswith("chosen    ") and ": " in line for line in lines)
    assert make_plan(override(cfg, {"run.storage_path": str(toy_detection.parent / "no")})).steps_per_epoch == 6


def test_classes_give_a_classifier_no_larger_than_its_images(toy_classification: Path) -> None:
    cfg = own_data(toy_classification, RANDOM).cfg
    assert cfg.model.name == "efficientnet_b0" and cfg.task == "classification" and cfg.model.image_size == 64


def test_what_is_given_is_not_chosen(toy_detection: Path) -> None:
    given = {
        **{"model.name": "efficientdet_lite0", "model.image_size": 384, "model.anchor_scale": 1.0, "optim.lr": 0.5},
        **{"data.batch_size": 2, "schedule.epochs": 7, "schedule.warmup_epochs": 0.25, "ema.decay": None},
        **{"scaling.num_workers": 2, "data.workers": 3, "run.name": "mine", "model.weights": None},
    }
    found = own_data(toy_detection, given)
    assert chosen(found) == {}
    assert override(found.cfg, given) == found.cfg


def test_the_learning_rate_goes_with_the_batch(toy_detection: Path) -> None:
    usual = recipe("efficientdet_lite0").optim.lr
    for batch in (4, 16, 64):
        cfg = own_data(toy_detection, RANDOM | {"model.name": "efficientdet_lite0", "data.batch_size": batch}).cfg
        assert cfg.optim.lr == pytest.approx(usual * min(1, batch / 16) ** 0.5, rel=0.02)


def test_weights_of_a_whole_detector_want_smaller_steps(toy_detection: Path, trained_detector: Path) -> None:
    fresh = own_data(toy_detection, RANDOM | {"model.name": "efficientdet_lite0"}).cfg.optim.lr
    for weights in ("effdet:tf_efficientdet_lite0", str(trained_detector)):
        found = own_data(toy_detection, {"model.weights": weights, "model.name": "efficientdet_lite0"})
        assert found.cfg.optim.lr == pytest.approx(fresh / 4, rel=0.03)
        assert "for weights of a whole detector" in dict((key, why) for key, _, why in found.chosen)["optim.lr"]


def test_own_recipes_are_named_after_their_models_and_have_published_weights() -> None:
    assert len(DETECTORS) == len(CLASSIFIERS) == 13 and set(OWN_DATA) <= set(RECIPES)
    assert all(recipe(name).model.name == name for name in OWN_DATA)
    assert all(published.published_for(name) for name in OWN_DATA)
    assert published.published_for("efficientdet_lite0") == "effdet:tf_efficientdet_lite0"
    assert published.published_for("efficientnet_b0") == "torchvision:efficientnet_b0"


def test_where_no_weights_can_be_had_the_address_the_place_and_the_other_way_are_said(
    toy_detection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("RAYDET_OFFLINE", "1")
    cfg = own_data(toy_detection, {"model.name": "efficientdet_lite0"}).cfg
    assert cfg.model.weights == "effdet:tf_efficientdet_lite0"
    place = tmp_path / "hub" / "checkpoints" / "tf_efficientdet_lite0-dfacfc78.pth"
    with pytest.raises(ConfigError, match=rf"put https://github\.com/.*dfacfc78\.pth at {place}"):
        make_plan(cfg)


def test_a_file_of_another_content_is_not_taken_for_the_published_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RAYDET_OFFLINE", raising=False)
    wrong = tmp_path / "torchvision-00000000.pth"
    wrong.write_bytes(b"wrong")
    monkeypatch.setitem(published.PUBLISHED, "torchvision:x", wrong.as_uri())
    with pytest.raises(ConfigError, match=r"torchvision:x cannot be downloaded .*--model\.weights none"):
        published.fetch("torchvision:x")
    assert not published.cache_path("torchvision:x").exists()


def test_an_unknown_model_is_refused_with_the_nearest(toy_detection: Path) -> None:
    with pytest.raises(ConfigError, match="no model 'efficientdet_d9' with defaults for own data; did you mean"):
        own_data(toy_detection, {"model.name": "efficientdet_d9"})


@pytest.mark.slow
def test_fit_takes_a_place_and_the_same_call_again_is_the_same_run(
    toy_classification: Path, tmp_path: Path, labels_not_drawn: None
) -> None:
    changes = {
        **{"model.name": "efficientnet_lite0", "model.weights": None, "data.workers": 0},
        **{"schedule.epochs": 1, "run.storage_path": str(tmp_path), "scaling.threads": 1},
    }
    first = raydet.fit(toy_classification, changes, out=(out := io.StringIO()))
    assert out.getvalue().startswith("found     folder in ") and "random weights" in out.getvalue()
    assert first.config.model.image_size == 64 and first.dir == tmp_path / "classification"
    assert raydet.fit(str(toy_classification), changes, out=io.StringIO()).best == first.best
