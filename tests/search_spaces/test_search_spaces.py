"""All spaces, on all recipes: what is drawn can be trained, the default comes first, a seed decides, Optuna agrees."""

import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from raydet import search_spaces
from raydet.config import Config, as_flat, override
from raydet.exceptions import ConfigError
from raydet.recipes import RECIPES, recipe
from raydet.search_spaces import SPACES
from raydet.search_spaces.domains import holds

QUICK = ("demo_classification", "demo_detection_qat", "efficientnet_b4_qat", "efficientdet_d0_coco_8x150")
KINDS = (*QUICK, "efficientdet_d0", "efficientnet_b0", "efficientnet_widese_b0_imagenet", "efficientdet_d0_waymo")
"""Recipes of each kind; the others differ from one of these in the network, which no space looks at."""
FITTING = [(name, of) for of in KINDS for name in search_spaces.fitting(recipe(of))]
EVERY = [pytest.param(*pair, marks=() if pair[1] in QUICK else pytest.mark.slow) for pair in FITTING]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "of"), EVERY)
def test_fifty_draws_of_a_space_go_through_override(name: str, of: str) -> None:
    cfg = recipe(of)
    space = search_spaces.get(name, cfg)
    drawn = [search_spaces.sample(space, cfg, seed) for seed in range(50)]
    for params in drawn:
        flat = as_flat(space.config(cfg, params))
        assert all(flat[key] == value for key, value in params.items() if not isinstance(value, str))
    for key in space.keys:
        assert len({params[key] for params in drawn}) > 1, f"{key} never changes"


@pytest.mark.parametrize(("name", "of"), EVERY)
def test_the_first_point_is_the_configuration_and_all_points_lie_inside(name: str, of: str) -> None:
    cfg = recipe(of)
    space = search_spaces.get(name, cfg)
    assert space.config(cfg, space.points[0]) == cfg
    for point in space.points:
        assert list(point) == space.keys
        assert all(holds(space.domains[key], value) for key, value in point.items())
        space.config(cfg, point)


def test_a_space_says_which_recipes_it_is_not_for() -> None:
    assert ("detector", "efficientnet_b0") not in FITTING and ("qat", "efficientnet_b0") not in FITTING
    assert all(search_spaces.fitting(recipe(of)) for of in RECIPES)
    with pytest.raises(
        ConfigError, match=r"detector needs a detector, and model\.name=efficientnet_b0 is a classifier"
    ):
        search_spaces.get("detector", recipe("efficientnet_b0_imagenet"))
    with pytest.raises(ConfigError, match=r"quantization is off in demo_detection; .*recipe \.\.\._qat"):
        search_spaces.get("qat", recipe("demo_detection"))


@pytest.mark.parametrize("of", ["demo_classification_qat", "efficientdet_d0_qat"])
def test_optuna_takes_each_space_without_a_warning_and_tries_the_default_first(of: str) -> None:
    from ray.tune.search.optuna import OptunaSearch

    cfg = recipe(of)
    for name in search_spaces.fitting(cfg):
        space = search_spaces.get(name, cfg)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            search = OptunaSearch(dict(space.domains), metric="m", mode="max", points_to_evaluate=space.points, seed=1)
            asked = [search.suggest(f"trial{i}") for i in range(len(space.points) + 2)]
        assert asked[: len(space.points)] == space.points
        for params in asked:
            space.config(cfg, params)


@pytest.mark.parametrize("name", ["lr_wd", "augment"])
def test_a_seed_decides_a_draw(name: str) -> None:
    cfg = recipe("demo_classification")
    first, second = search_spaces.get(name, cfg), search_spaces.get(name, cfg)
    assert search_spaces.sample(first, cfg, 7) == search_spaces.sample(second, cfg, 7)
    assert search_spaces.sample(first, cfg, 7) != search_spaces.sample(first, cfg, 8)


def test_a_draw_of_a_key_does_not_depend_on_what_else_is_searched() -> None:
    cfg = recipe("demo_classification")
    alone, more = search_spaces.get("lr", cfg), search_spaces.get("lr_wd", cfg)
    for seed in range(5):
        assert search_spaces.sample(alone, cfg, seed)["optim.lr"] == search_spaces.sample(more, cfg, seed)["optim.lr"]


def test_listing_spaces_loads_neither_ray_nor_torch_nor_numpy() -> None:
    code = (
        "import raydet\nfrom raydet import search_spaces\nprint(search_spaces.SPACES['lr'])\n"
        "search_spaces.fitting(raydet.recipe('demo_detection_qat'))\nimport sys\n"
        "assert not {'ray', 'torch', 'numpy'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_every_file_with_a_space_is_listed() -> None:
    folder = Path(search_spaces.__file__).parent
    having = {path.stem for path in folder.glob("*.py") if "\ndef space(" in path.read_text()}
    assert having == set(SPACES)


@pytest.mark.parametrize("name", SPACES)
def test_a_space_tells_the_source_of_each_key(name: str) -> None:
    """Each key's range is spoken of in the docstring, by its whole key or its field."""
    for of in ("demo_detection_qat", "demo_classification_qat"):
        cfg = recipe(of)
        if name not in search_spaces.fitting(cfg):
            continue
        module = importlib.import_module(f"raydet.search_spaces.{name}")
        told = str(module.space.__doc__) + (" optim.lr optim.weight_decay" if name == "lr_wd" else "")
        for key in search_spaces.get(name, cfg).keys:
            assert key in told or key.rpartition(".")[2] in told, key


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("lrwd", r"no search space 'lrwd'; did you mean lr_wd"),
        ("zzzz", r"no search space 'zzzz'; there are lr, wd, lr_wd, qat, augment, detector"),
        (None, r"nothing to search: give a space"),
    ],
)
def test_an_unknown_space_is_refused_with_the_nearest(name: str | None, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        search_spaces.get(name, recipe("demo_detection"))


def test_a_dash_is_an_underscore() -> None:
    cfg = recipe("demo_detection")
    assert search_spaces.get("lr-wd", cfg).keys == search_spaces.get("lr_wd", cfg).keys


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"optim.weight_decay": 0.0},
        {"optim.momentum": 0.0},
        {"ema.decay": 0.5},
        {"schedule.epochs": 1, "schedule.warmup_epochs": 0.0, "schedule.per_step": False},
        {"schedule.epochs": 1, "schedule.warmup_epochs": 4.0, "schedule.per_step": False},
        {"schedule.min_lr": 1.0},
        {"loss.gamma": 0.0, "loss.box_weight": 0.0, "loss.alpha": 1.0},
        {"evaluation.soft_nms_sigma": 0.7, "augment.scale": (0.3, 0.4), "augment.color_jitter": 2.0},
        {"quantization.bits": 4, "quantization.percentile": 98.5, "quantization.freeze_bn_after": 1.0},
        {"optim.name": "rmsprop", "optim.eps": 1e-12, "optim.alpha": 0.0, "optim.lr_batch_size": 256},
        {"recipe": None, "optim.lr": 1e-9},
        {"recipe": "mine", "optim.lr": 50.0},
    ],
)
def test_settings_of_the_users_own_lie_in_the_ranges_too(changes: dict[str, object]) -> None:
    cfg = override(recipe("demo_detection"), changes)
    for name in search_spaces.fitting(cfg):
        space = search_spaces.get(name, cfg)
        assert space.config(cfg, space.points[0]) == cfg
        for seed in range(10):
            search_spaces.sample(space, cfg, seed)


def test_a_space_is_built_without_a_recipe() -> None:
    assert search_spaces.get("lr_wd", Config()).points[0]["optim.lr"] == 0.01
