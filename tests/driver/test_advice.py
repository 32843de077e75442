"""What a run is told while there is time to act: memory, an odd learning rate, a score of nothing."""

from dataclasses import replace

import pytest

from raydet.config import Config, override
from raydet.driver import advice, fit
from raydet.driver.dry_run import dry_run
from raydet.driver.plan import Plan, make_plan
from raydet.exceptions import ConfigError
from raydet.recipes import RECIPES, recipe


def test_more_memory_than_the_machine_has_is_refused_before_anything_is_written(
    detection: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(detection)
    (line,) = advice.before_start(plan, {"activations": 1 << 30})
    assert line.startswith("memory    1.6 GiB expected; this machine has ")
    monkeypatch.setattr(advice, "machine_bytes", lambda gpu: 100 << 20)
    for verb in (fit.fit, dry_run):
        with pytest.raises(ConfigError, match=r"more memory than there is: .* this machine has 0\.1 GiB.*check_memory"):
            verb(detection)
    assert not plan.folder.exists()
    assert "0.1 GiB" in advice.before_start(_with(plan, {"scaling.check_memory": False}), {"weights": 0})[0]


def test_workers_on_this_machine_add_up_and_a_clusters_memory_is_not_known_here(detection: Config) -> None:
    plan = make_plan(override(detection, {"scaling.num_workers": 2}))
    assert advice.before_start(plan, {"weights": 1 << 30})[0].startswith("memory    3.2 GiB")
    assert advice.before_start(_with(plan, {"scaling.address": "ray://there:10001"}), {"weights": 1 << 60}) == []


def test_no_recipe_has_a_learning_rate_that_is_odd_for_its_own_batch() -> None:
    odd = {name: said for name in RECIPES if (said := advice.odd_learning_rate(recipe(name))) is not None}
    assert odd == {}


def test_a_learning_rate_far_from_its_batch_is_told_with_the_one_that_fits() -> None:
    cfg = recipe("efficientnet_b0_imagenet")
    small = override(cfg, {"optim.batch_size": 32, "data.batch_size": 32})
    said = advice.odd_learning_rate(small)
    assert said is not None and f"is {cfg.global_batch // 32} times what" in said and "for 32 images a step" in said
    scaled = override(small, {"optim.lr": cfg.optim.lr * 32 / cfg.global_batch})
    assert advice.odd_learning_rate(scaled) is None
    own = override(recipe("efficientdet_lite0"), {"data.batch_size": 16, "scaling.num_workers": 0})
    assert advice.odd_learning_rate(own) is None
    low = advice.odd_learning_rate(override(own, {"optim.lr": own.optim.lr / 100}))
    assert low is not None and "is 1/100 of" in low
    assert advice.odd_learning_rate(override(own, {"optim.name": "sgd", "optim.lr": 1.0})) is None  # another scale


def rows(losses: list[float], score: float, name: str = "AP") -> list[dict[str, float]]:
    return [{"step": 6 * (i + 1), "train_loss": loss, name: score} for i, loss in enumerate(losses)]


def test_a_score_of_nothing_is_answered_once_with_the_likeliest_cause(detection: Config) -> None:
    plan = make_plan(detection)
    falls = [3.0, 2.0, 1.0, 0.9]
    for changes, losses, cause in (
        ({}, falls, "started from random weights and has made 18 of 12 steps"),
        ({}, [3.0, 3.1, 3.2, 3.3], "the training loss does not fall"),
        ({"model.weights": "some"}, falls, "only 18 of 12 steps are made, 3 of them warm-up"),
        ({"model.weights": "some", "optim.lr": 5.0}, falls, "is 1000 times what demo_detection's comes to"),
    ):
        watch = advice.score_watch(_with(plan, changes))
        said = [watch(row) for row in rows(losses, 0.0)]
        assert said[0] is said[1] is said[3] is None
        assert said[2] is not None and said[2].startswith("AP is 0 after 3 evaluations: ") and cause in said[2]
    long = advice.score_watch(_with(plan, {"model.weights": "some"}))
    said = [long(row | {"step": 1000 + i}) for i, row in enumerate(rows(falls, 0.0))]
    assert said[2] is not None and "raydet check" in said[2]
    watch = advice.score_watch(plan)
    assert [watch(row) for row in rows(falls, 0.01)] == [None] * 4


def test_a_classifier_no_better_than_chance_is_told(classification: Config) -> None:
    plan = make_plan(classification)
    watch = advice.score_watch(plan)
    said = [watch(row) for row in rows([2.0, 1.0, 0.9], 1 / len(plan.classes), "top1")]
    assert said[2] is not None and "no better than chance" in said[2]


def _with(plan: Plan, changes: dict[str, object]) -> Plan:
    return replace(plan, cfg=override(plan.cfg, changes))
