"""A trial without Ray Tune: which evaluations it hands on, how a run's end is said, a clone of a donor's run."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raydet.config import Config, load, override
from raydet.driver.fit import fit
from raydet.exceptions import Cancelled, DataError, NonFiniteLoss, StorageFull
from raydet.runs import checkpoint_store
from raydet.tuning.settings import Setting, make_setting, write_identity
from raydet.tuning.trials.folders import donations_of, stages
from raydet.tuning.trials.trial import Trial, clone
from tests.tuning.search.test_study import evaluated


@pytest.fixture
def setting(classification: Config) -> Setting:
    cfg = override(classification, {"scaling.num_workers": 1, "run.name": "search"})
    setting = make_setting(cfg, None, ["optim.lr=loguniform(1e-4, 1e-1)"], algorithm="pbt", num_samples=2)
    setting.folder.mkdir(parents=True)
    write_identity(setting)
    return setting


def trial_of(setting: Setting, number: int, **run: Any) -> Trial:
    """Return a trial whose run is made up."""
    trial = Trial.__new__(Trial)
    trial._trial_info = SimpleNamespace(trial_id=f"{number:04d}")
    trial.setup({"optim.lr": 0.01}, setting=setting)
    trial.run = SimpleNamespace(running=False, error=None, result=None, values={}, cfg=setting.cfg, **run)
    return trial


def test_evaluations_are_handed_on_in_order_with_the_best_so_far(setting: Setting) -> None:
    trial = trial_of(setting, 3)
    evaluated(setting, 3, 0.2, 0.5, 0.4)
    assert [trial._next() for _ in range(4)] == [
        {"score": 0.2, "epoch": 1, "finished": False},
        {"score": 0.5, "epoch": 2, "finished": False},
        {"score": 0.5, "epoch": 3, "finished": False},
        None,
    ]


def test_a_torn_line_and_epochs_without_a_score_are_passed_over(setting: Setting) -> None:
    trial = trial_of(setting, 3)
    evaluated(setting, 3, 0.2)
    with (setting.folder / "trials" / "0003" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "step": 2}\n{"epoch": 3, "step": 3, "top1": 0.3}\n{"epoch": 4, "to')
    assert [found and found["epoch"] for found in (trial._next(), trial._next(), trial._next())] == [1, 3, None]


def test_the_last_evaluation_waits_for_the_run_s_own_end(setting: Setting) -> None:
    trial = trial_of(setting, 3)
    evaluated(setting, 3, 0.2, 0.5)  # of 2 epochs
    trial.run.result, trial.run.values = SimpleNamespace(metrics={"top1": 0.5}), {"size_mb": 2.5}
    assert trial.step() == {"score": 0.2, "epoch": 1, "finished": False}
    assert trial.step() == {"score": 0.5, "epoch": 2, "finished": True, "done": True, "size_mb": 2.5}


@pytest.mark.parametrize(
    ("error", "said", "diverged"),
    [
        (NonFiniteLoss("training loss is nan\nin epoch 2"), "training loss is nan in epoch 2", True),
        (DataError("no such file", rule="R"), "DataError: no such file (R)", False),
    ],
)
def test_how_a_run_has_failed_is_said_in_one_line(
    setting: Setting, error: Exception, said: str, diverged: bool
) -> None:
    trial = trial_of(setting, 3)
    trial.run.error = error
    found = trial.step()
    assert (found["failed"], found["diverged"], found["done"], found["finished"]) == (said, diverged, True, False)
    assert "score" not in found


def test_a_full_disk_is_not_a_failure_of_the_trial(setting: Setting) -> None:
    trial = trial_of(setting, 3)
    trial.run.error = StorageFull(Path("/there"), 9, 1)
    assert trial.step() == {"epoch": 0, "full": ("/there", 9, 1), "done": True}


def test_a_machine_that_does_not_see_the_search_s_folder_is_said(setting: Setting) -> None:
    trial = trial_of(setting, 3)
    trial.run = None
    (setting.folder / "search.json").unlink()
    assert "this is another folder" in trial.step()["failed"]


def test_a_run_that_was_cancelled_has_no_end(setting: Setting) -> None:
    trial = trial_of(setting, 3)
    trial.run.error = Cancelled("x")
    with pytest.raises(Cancelled):
        trial.step()


def test_an_early_end_of_the_run_s_own_is_an_end(setting: Setting) -> None:
    """run.early_stop."""
    trial = trial_of(setting, 3)
    evaluated(setting, 3, 0.5)
    trial.run.result = SimpleNamespace(metrics={"top1": 0.5})
    assert not trial.step()["finished"]
    found = trial.step()
    assert found["finished"] and found["epoch"] == 1 and found["score"] == 0.5


@pytest.mark.slow
def test_a_clone_goes_on_from_the_donor_s_weights_with_its_own_values(setting: Setting, tmp_path: Path) -> None:
    """What PBT's exploit and explore are, without Ray."""
    here = {"scaling.num_workers": 0, "run.storage_path": str(setting.folder / "trials")}
    donor, mine = (
        fit(override(setting.cfg, {**here, "run.name": name, "optim.lr": lr}), out=(tmp_path / name).open("w"))
        for name, lr in (("0001", 0.003), ("0002", 0.09))
    )
    first = min(donor.dir.glob("checkpoints/step_*"))
    source = tmp_path / "source"
    shutil.copytree(first, source / first.name)
    shutil.copy(donor.dir / "metrics.jsonl", source)
    clone(setting, 2, {"number": 1, "epoch": 1, "params": {"optim.lr": 0.003}}, {"optim.lr": 0.0036}, source)
    folder = stages(setting, 2)[-1]
    assert folder.name == "0002-g1" and load(folder / "config.json").optim.lr == 0.0036
    said = donations_of(stages(setting, 2))[0]
    assert (said.donor, said.epoch, said.before, said.after) == (1, 1, {"optim.lr": 0.09}, {"optim.lr": 0.0036})
    result = fit(override(load(folder / "config.json"), {}), out=(tmp_path / "out").open("w"))
    assert "continue  after epoch 1" in (tmp_path / "out").read_text()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    theirs = [json.loads(line) for line in (donor.dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2] and lines[0] == theirs[0] and lines[1] != theirs[1]
    assert lines[1]["lr"] == pytest.approx(theirs[1]["lr"] * 1.2)
    ours, before, other = (checkpoint_store.read(path).tensors("model") for path in (result.last, first, mine.last))
    step = max(float((ours[k] - before[k]).abs().max()) for k in ours if ours[k].is_floating_point())
    far = max(float((ours[k] - other[k]).abs().max()) for k in ours if ours[k].is_floating_point())
    assert 0 < step < far and all(torch.isfinite(t).all() for t in ours.values())


def test_a_trial_restarted_from_the_checkpoint_it_was_given_goes_on_with_its_own_run(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune restores a trial from its last checkpoint, which after an exploit is the donor's."""
    cloned: list[int] = []
    monkeypatch.setattr("raydet.tuning.trials.trial.clone", lambda setting, number, *rest: cloned.append(number))
    whose = {"number": 1, "epoch": 4, "params": {"optim.lr": 0.3}}
    (tmp_path / "whose.json").write_text(json.dumps(whose))
    trial_of(setting, 3).load_checkpoint(str(tmp_path))
    assert cloned == [3]
    said = {"number": 3, "epoch": 4, "donor": 1, "before": {"optim.lr": 0.1}, "after": {"optim.lr": 0.01}}
    folder = setting.folder / "trials" / "0003-g1"
    folder.mkdir(parents=True)
    (folder / "donation.json").write_text(json.dumps(said))
    trial_of(setting, 3).load_checkpoint(str(tmp_path))
    assert cloned == [3]
    (tmp_path / "whose.json").write_text(json.dumps(whose | {"epoch": 8}))
    trial_of(setting, 3).load_checkpoint(str(tmp_path))
    assert cloned == [3, 3]
