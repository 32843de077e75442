"""The range test as a user runs it: files, lines, another one under the same name, what lies in its way."""

import io
import math
from pathlib import Path

import numpy as np
import pytest

from raydet.config import Config, override
from raydet.driver.fit import fit
from raydet.exceptions import ConfigError, NonFiniteLoss
from raydet.tuning.lr_range import sweep
from raydet.tuning.lr_range.run import draw, lr_range_test


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """Losses instead of a training: the next call takes the last; by default they run away."""
    losses = [[1.0] * 250 + [9.0] * 50]

    def ramp(trainer: object, batches: object, lr_N: object) -> list[float]:
        found = losses[-1]
        return found[: next(n for n in range(1, len(found) + 1) if n == len(found) or sweep.ran_away(found[:n]))]

    monkeypatch.setattr(sweep, "ramp", ramp)
    return losses


@pytest.mark.slow
def test_it_leaves_a_table_a_figure_and_a_suggestion_and_says_so(
    classification: Config, tmp_path: Path, made_up: list[list[float]]
) -> None:
    out = io.StringIO()
    result = lr_range_test(classification, out)
    folder = tmp_path / "runs" / "run-lr-range"
    assert (result.table, result.figure) == (folder / "lr_range.csv", folder / "lr_range.png")
    assert result.figure.read_bytes().startswith(b"\x89PNG") and result.figure.stat().st_mode & 0o777 == 0o640
    lr_N, loss_N, _ = sweep.read(result.table)
    assert (result.suggestion, result.why) == sweep.suggest(lr_N, loss_N) and result.suggestion is not None
    lines = [line.split("  ", 1) for line in out.getvalue().splitlines()]
    assert [title for title, _ in lines] == ["range test", "losses", "figure", "suggestion", "for"]
    assert lines[0][1].strip() == "at most 300 steps of 8 images, optim.lr 3.0e-06 to 3.0e+01"
    assert lines[3][1] == f"optim.lr {result.suggestion:g}; configured is 0.003"


@pytest.mark.slow
def test_without_a_training_to_mock_it_trains(classification: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "STEPS", 12)
    result = lr_range_test(classification, io.StringIO())
    lr_N, loss_N, _ = sweep.read(result.table)
    assert 10 <= len(lr_N) <= 12 and 1.5 < loss_N[0] < 4


@pytest.mark.slow
def test_another_test_under_the_same_name_replaces_it_whatever_was_changed(
    classification: Config, made_up: list[list[float]]
) -> None:
    first = lr_range_test(classification, io.StringIO())
    changes = {"optim.lr": 0.09, "data.batch_size": 4, "optim.batch_size": None, "model.dropout": 0.5}
    second = lr_range_test(override(classification, changes), io.StringIO())
    assert second.table == first.table
    assert sweep.read(second.table)[0][0] == pytest.approx(sweep.LOWEST * 0.09, rel=1e-4)
    assert '"dropout": 0.5' in (second.table.parent / "config.json").read_text()


@pytest.mark.slow
def test_a_test_that_fails_leaves_no_result_of_an_earlier_one(
    classification: Config, made_up: list[list[float]]
) -> None:
    made_up.append([math.nan])
    with pytest.raises(NonFiniteLoss, match="the loss is nan at step 1 already"):
        lr_range_test(classification, io.StringIO())
    assert not Path(classification.run.storage_path).exists(), "of a new one nothing is left"
    made_up.pop()
    result = lr_range_test(classification, io.StringIO())
    made_up.append([math.nan])
    with pytest.raises(NonFiniteLoss):
        lr_range_test(classification, io.StringIO())
    assert not result.table.exists() and not result.figure.exists()


@pytest.mark.slow
def test_a_training_under_its_name_is_left_alone(classification: Config) -> None:
    cfg = override(classification, {"schedule.epochs": 1})
    folder = fit(override(cfg, {"run.name": "run-lr-range"}), out=io.StringIO()).dir
    before = (folder / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=r"run\.name: .*run-lr-range holds \S+, so it is no range test"):
        lr_range_test(cfg, io.StringIO())
    assert (folder / "config.json").read_bytes() == before


@pytest.mark.slow
def test_the_longest_name_still_gives_one(classification: Config, made_up: list[list[float]]) -> None:
    result = lr_range_test(override(classification, {"run.name": "n" * 64}), io.StringIO())
    assert result.table.parent.name == "n" * 55 + "-lr-range"


@pytest.mark.slow
def test_where_nothing_can_be_said_the_figure_is_drawn_all_the_same(
    classification: Config, made_up: list[list[float]]
) -> None:
    made_up.append([1.0] * 300)
    out = io.StringIO()
    result = lr_range_test(classification, out)
    assert result.suggestion is None and result.figure.exists()
    assert "suggestion  none\n" in out.getvalue() and "neither fell nor ran away" in out.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("losses", [[0.0] * 30, [1e30] * 29 + [math.nan], [5.0] * 10 + [1e-30] * 20])
def test_any_losses_can_be_drawn(losses: list[float], tmp_path: Path) -> None:
    loss_N = np.array(losses)
    draw(tmp_path / "a.png", np.geomspace(1e-9, 1, 30), loss_N, 1e-3, 1e-2, "a reason " * 20)
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.soak
def test_on_ray_workers_it_finds_what_it_finds_in_this_process(classification: Config) -> None:
    cfg = override(classification, {"model.freeze_bn": True, "scaling.cpus_per_worker": 1, "scaling.threads": 1})
    here = lr_range_test(cfg, io.StringIO())
    there = lr_range_test(override(cfg, {"scaling.num_workers": 2, "run.name": "ray"}), io.StringIO())
    one, two = sweep.read(here.table), sweep.read(there.table)
    assert two[1][:50] == pytest.approx(one[1][:50], rel=1e-3)
    assert here.suggestion is not None and there.suggestion is not None
    assert 0.5 < there.suggestion / here.suggestion < 2
