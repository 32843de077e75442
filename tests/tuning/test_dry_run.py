"""A search shown before it starts."""

from pathlib import Path

import pytest

from raydet.config import override
from raydet.exceptions import ConfigError, DataError
from raydet.recipes import recipe
from raydet.tuning.dry_run import dry_run, first_points
from raydet.tuning.search.study import SearchStudy
from raydet.tuning.settings import make_setting
from tests.tuning.search.test_study import new


@pytest.mark.parametrize("options", [{}, {"algorithm": "random", "space": "augment"}])
def test_the_first_trials_are_those_that_the_search_then_tries(tmp_path: Path, options: dict[str, str]) -> None:
    setting = new(tmp_path, num_samples=9, **options)
    shown = first_points(setting, 9)
    study = SearchStudy(setting)
    assert shown == [study.params(number) for _ in range(9) if (number := study.ask()) is not None]


def test_it_shows_ranges_rungs_and_cost_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setting = new(tmp_path, num_samples=12, epochs=10)
    found = dry_run(setting)
    out = capsys.readouterr().out
    assert (found["epochs_at_most"], found["rungs"]) == (120, [1, 4])
    assert "trials    12 by tpe with asha, 10 epochs each: at most 120 epochs" in out
    assert "compared after 1, 4, and stopped if worse" in out
    assert "trial 1   lr 0.003  wd 0.01" in out and "trial 5   lr" in out and "trial 6" not in out
    assert "  optim.momentum: uniform(0.8, 0.95), now 0.9" in out and "images in demo://classification" in out
    assert not list(setting.folder.iterdir())
    assert dry_run(setting, quiet=True) == found and not capsys.readouterr().out


def test_it_refuses_what_the_search_would(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        dry_run(new(tmp_path, space=None, sets=["optim.lrr=uniform(0, 1)"]))
    cfg = override(recipe("demo_classification"), {"data.root": str(tmp_path / "none"), "data.format": "folder"})
    with pytest.raises(DataError):
        dry_run(make_setting(cfg, "lr"))
