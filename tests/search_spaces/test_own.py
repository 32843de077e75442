"""A space in the user's own file: it is run, and what is wrong with it is told by its name."""

from pathlib import Path

import pytest

from raydet.exceptions import ConfigError
from raydet.recipes import recipe
from raydet.search_spaces import get, spelt

CFG = recipe("demo_detection")


def written(folder: Path, body: str, name: str = "mine.py") -> str:
    path = folder / name
    path.write_text(f"from ray import tune\n{body}\n")
    return str(path)


def test_a_file_of_the_users_own_gives_a_space(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Range:\n    low: 'float' = 1e-4\n"
        "def space(cfg):\n"
        "    return {'optim.lr': tune.loguniform(Range().low, 10 * cfg.optim.lr),\n"
        "            'augment.scale': tune.choice([(0.8, 1.25), (0.1, 2.0)])}\n"
        "def points(cfg):\n    return [{'augment.scale': (0.1, 2.0)}]",
    )
    space = get(path, CFG)
    assert space.name == "mine"
    assert {key: spelt(domain) for key, domain in space.domains.items()} == {
        "optim.lr": "loguniform(0.0001, 0.05)",
        "augment.scale": "choice('0.8,1.25', '0.1,2.0')",
    }
    assert space.points == [
        {"optim.lr": 0.005, "augment.scale": "0.8,1.25"},
        {"optim.lr": 0.005, "augment.scale": "0.1,2.0"},
    ]
    assert space.config(CFG, space.points[1]).augment.scale == (0.1, 2.0)


def test_a_file_that_says_it_does_not_fit_is_believed(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "from raydet.config import ConfigError\n"
        "def fits(cfg):\n    raise ConfigError('only for the moon')\n"
        "def space(cfg):\n    return {'optim.lr': tune.uniform(0, 1)}",
    )
    with pytest.raises(ConfigError, match=r"^only for the moon$"):
        get(path, CFG)


def test_a_line_mends_a_range_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "def space(cfg):\n    return {'optim.lr': tune.uniform(1, 2)}")
    with pytest.raises(ConfigError, match=r"optim\.lr is 0\.005"):
        get(path, CFG)
    assert get(path, CFG, ["optim.lr=uniform(0.001, 2)"]).points == [{"optim.lr": 0.005}]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("x = 1", r"mine\.py has no function space\(cfg\)"),
        ("space = 3", r"mine\.py has no function space\(cfg\)"),
        ("def space(cfg:\n", r"mine\.py: SyntaxError"),
        ("import a_package_that_is_not_there", r"mine\.py: ModuleNotFoundError: No module named"),
        ("1 / 0", r"mine\.py: ZeroDivisionError"),
        ("def space():\n    return {}", r"mine\.py: space\(cfg\): TypeError"),
        ("def space(cfg):\n    return cfg.optim.nothing", r"mine\.py: space\(cfg\): AttributeError"),
        ("def space(cfg):\n    return {}", r"must return a dict of dotted keys"),
        ("def space(cfg):\n    return [1]", r"must return a dict of dotted keys"),
        ("def space(cfg):\n    return {'optim.lr': 0.1}", r"optim\.lr is 0\.1, not one of .* --KEY VALUE"),
        (
            "def space(cfg):\n    return {'optim.lr': tune.grid_search([1, 2])}",
            r"optim\.lr is a grid; use tune\.choice",
        ),
        (
            "def space(cfg):\n    return {'optim': {'lr': tune.uniform(0, 1)}}",
            r"optim is nested; write one key, optim\.lr",
        ),
        ("def space(cfg):\n    return {'optim.lr': tune.sample_from(lambda: 1)}", r"optim\.lr is .* not one of"),
        ("def space(cfg):\n    return {'optim.lr': tune.randn(0, 1)}", r"optim\.lr is .* not one of"),
        ("def space(cfg):\n    return {'optim.lr': tune.qloguniform(1, 8, 1)}", r"optim\.lr is .* not one of"),
        (
            "def space(cfg):\n    return {'schedule.epochs': tune.qrandint(1, 8, 2)}",
            r"schedule\.epochs is .* not one of",
        ),
        ("def space(cfg):\n    return {'optim.lr': tune.choice([object()])}", r"is no value of a choice"),
        (
            "def space(cfg):\n    return {'optim.rl': tune.uniform(0, 1)}",
            r"optim\.rl: no such field; did you mean optim\.lr",
        ),
    ],
)
def test_a_file_without_a_usable_space_is_refused(tmp_path: Path, body: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        get(written(tmp_path, body), CFG)


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ("{'optim.lr': 1}", r"points\(cfg\) must return a list of dicts"),
        ("[3]", r"points\(cfg\) must return a list of dicts"),
        ("[{'optim.lr': 7.0}]", r"space mine, point 1: optim\.lr=7\.0 is not in uniform\(0, 1\)"),
        ("[{'optim.momentum': 0.9}]", r"point 1: optim\.momentum is not in the space"),
        ("[{}, {'optim.l': 0.9}]", r"point 2: optim\.l is not in the space; did you mean optim\.lr\?"),
    ],
)
def test_bad_points_of_a_file_are_refused(tmp_path: Path, points: str, says: str) -> None:
    body = f"def space(cfg):\n    return {{'optim.lr': tune.uniform(0, 1)}}\ndef points(cfg):\n    return {points}"
    with pytest.raises(ConfigError, match=says):
        get(written(tmp_path, body), CFG)


def test_a_file_that_is_not_there_and_one_that_is_no_python_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.py: no such file"):
        get(str(tmp_path / "nowhere.py"), CFG)
    with pytest.raises(ConfigError, match=r"its name must end in \.py"):
        get(written(tmp_path, "def space(cfg):\n    return {}", "mine.txt"), CFG)
