"""A search shown before it is begun."""

from pathlib import Path

import pytest

from raydet.config import override
from raydet.exceptions import ConfigError, DataError
from raydet.recipes import recipe
from raydet.tuning.dry_run import dry_run, first_points, most_epochs
from raydet.tuning.search.study import Record
from raydet.tuning.settings import make_setting
from tests.tuning.search.test_study import new


@pytest.mark.parametrize("told", [{}, {"algorithm": "random", "space": "augment"}, {"space": "wd", "seed": 7}])
def test_the_first_trials_are_those_that_the_search_then_tries(tmp_path: Path, told: dict[str, str]) -> None:
    setting = new(tmp_path, num_samples=9, **told)
    shown = first_points(setting, 9)
    record = Record(setting)
    assert shown == [record.params(number) for _ in range(9) if (number := record.propose(2)) is not None]


def test_it_shows_ranges_rungs_and_cost_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setting = new(tmp_path, num_samples=12)
    found = dry_run(setting)
    out = capsys.readouterr().out
    assert (found["epochs_at_most"], found["epochs_of_full_runs"], found["rungs"]) == (18, 36, [1, 2])
    assert "compared after 1, 2, and stopped if worse: at most 18 of 36 epochs" in out
    assert "trial 1   lr 0.003  wd 0.01" in out and "trial 5   lr" in out and "trial 6" not in out
    assert "  optim.momentum: uniform(0.8, 0.95), now 0.9" in out and "images in demo://classification" in out
    assert not list(setting.folder.iterdir())
    assert dry_run(setting, quiet=True) == found and not capsys.readouterr().out


def test_without_early_stopping_all_epochs_may_be_taken(tmp_path: Path) -> None:
    assert most_epochs(new(tmp_path, num_samples=12, scheduler="none")) == 36
    assert most_epochs(new(tmp_path, num_samples=2)) == 6


def test_it_refuses_what_the_search_would(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        dry_run(new(tmp_path, space=None, sets=["optim.lrr=uniform(0, 1)"]))
    cfg = override(recipe("demo_classification"), {"data.root": str(tmp_path / "none"), "data.format": "folder"})
    with pytest.raises(DataError):
        dry_run(make_setting(cfg, "lr"))
