"""Searches on a Ray: from the command line to the files they leave; killed, interrupted, continued, with PBT."""

import io
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from raydet.cli.main import run
from raydet.config import Config, load, override, to_dict
from raydet.driver.fit import fit
from raydet.driver.plan import make_plan
from raydet.tuning.dry_run import first_points
from raydet.tuning.search.study import SearchStudy
from raydet.tuning.settings import make_setting, write_identity
from raydet.tuning.tune import tune
from tests.commands import alive, begun, descendants, kill, raydet, running, training_workers, until, words
from tests.tuning.search.test_study import evaluated

LR = "optim.lr=loguniform(1e-4, 1e-1)"
slow, on_shared_ray = pytest.mark.slow, pytest.mark.usefixtures("shared_ray")
OLD = Path(__file__).parents[1] / "files" / "before_2026_12" / "search"
"""A search of the code at 8bb4c3d, killed in its fourth trial: `--schedule.epochs 2 --num-samples 5 --set LR`."""


@pytest.fixture
def cfg(classification: Config) -> Config:
    return override(classification, {"scaling.num_workers": 1, "scaling.threads": 1, "run.name": "search"})


def command(cfg: Config, *more: str) -> list[str]:
    return ["tune", *words(cfg), *more]


def folder_of(cfg: Config) -> Path:
    return Path(cfg.run.storage_path) / cfg.run.name


def study_of(cfg: Config, **options: Any) -> SearchStudy:
    return SearchStudy(make_setting(cfg, None, [LR], **options))


def ended(cfg: Config, number: int) -> bool:
    """Whether the trial's run has gone to its end."""
    return (folder_of(cfg) / "trials" / f"{number:04d}" / "result.json").is_file()


def epochs_of(folder: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def placement_groups() -> list[str]:
    """Return the states of the placement groups that are not gone."""
    from ray.util.placement_group import placement_group_table

    return [group["state"] for group in placement_group_table().values() if group["state"] != "REMOVED"]


def test_a_key_that_does_not_exist_is_refused_before_ray_starts(
    cfg: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command(cfg, "--set", "optim.learning_rate=uniform(0, 1)")) == 2
    err = capsys.readouterr().err
    assert "optim.learning_rate: no such field" in err and "optim.lr" in err and not folder_of(cfg).exists()


# --- a search of its own


@slow
@pytest.mark.soak
def test_a_search_from_the_command_line_to_the_next_fit(cfg: Config, tmp_path: Path) -> None:
    """Some trials can only fail; default and best are repeated."""
    sets = [LR, "data.train=choice(train, nowhere)"]
    cfg = override(cfg, {"schedule.epochs": 1})
    seeded = (override(cfg, {"run.seed": seed}) for seed in range(99))
    points = ((c, first_points(make_setting(c, None, sets), 3)) for c in seeded)
    cfg, tried = next((c, found) for c, found in points if [p["data.train"] for p in found[1:]] == ["nowhere", "train"])
    options = [word for text in sets for word in ("--set", text)]
    done = raydet(*command(cfg, *options, "--num-samples", "3", "--confirm", "1", "--json"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1 and done.stderr.count("failed") >= 1 and "Traceback" not in done.stderr
    found, folder = json.loads(done.stdout), folder_of(cfg)
    rows = SearchStudy(make_setting(cfg, None, sets)).rows()
    assert [(row.number, row.params) for row in rows] == list(enumerate(tried, 1)) and found["trials"] == 3
    assert rows[1].state == "failed" and str(rows[1].error).startswith("DataError")
    assert rows[0].state == "finished" and rows[0].params["optim.lr"] == cfg.optim.lr
    assert found["top1"] == max(row.score or 0.0 for row in rows if row.state == "finished")
    for name in ("best.json", "trials.csv", "summary.md", "optuna.journal", "figures/history.png"):
        assert (folder / name).is_file(), name
    assert (folder / "trials" / f"0001-seed{cfg.run.seed + 1}" / "result.json").is_file()
    best = load(folder / "best.json")
    assert best.optim.lr == rows[found["best"] - 1].params["optim.lr"]
    trained = fit(override(best, {"scaling.num_workers": 0}), out=io.StringIO())
    assert trained.dir == folder.with_name("search-best")
    assert trained.metrics["top1"] == pytest.approx(found["top1"], abs=0.2)


@slow
@pytest.mark.soak
def test_ctrl_c_and_kill_leave_nothing_running_and_the_same_command_continues(cfg: Config, tmp_path: Path) -> None:
    cfg = override(cfg, {"schedule.epochs": 4})
    again = command(cfg, "--set", LR, "--num-samples", "3", "--scheduler", "none", "--concurrent", "2")
    trials = folder_of(cfg) / "trials"
    with running(again, tmp_path) as process:
        until(lambda: training_workers(process.pid), "a training worker")
        below = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
        until(lambda: not alive(below), "the end of what it had started")
    err = (tmp_path / "stderr.txt").read_text()
    assert "interrupted; the same command continues where it was left" in err and "Traceback" not in err
    with running(again, tmp_path) as process:
        until(lambda: ended(cfg, 1) or ended(cfg, 2), "the first trial's end")
        until(lambda: (trials / "0003" / "metrics.jsonl").is_file(), "a third trial's first epoch")
        below = descendants(process.pid)
        kill(process.pid)
        until(lambda: not alive(below), "the end of what the killed driver had started")
    known = study_of(cfg)
    before = {row.number: row for row in known.rows()}
    kept = {n: (trials / f"{n:04d}" / "result.json").stat().st_mtime_ns for n in before if ended(cfg, n)}
    assert kept and 3 in known.unfinished()
    with running(again, tmp_path) as process:
        assert process.wait(600) == 0, (tmp_path / "stderr.txt").read_text()
        assert not alive(descendants(process.pid))
    rows = study_of(cfg).rows()
    assert [(row.number, row.state) for row in rows] == [(n, "finished") for n in (1, 2, 3)]
    assert all(rows[n - 1].params == row.params for n, row in before.items())
    assert len({json.dumps(row.params, sort_keys=True) for row in rows}) == 3  # none twice
    assert all((trials / f"{n:04d}" / "result.json").stat().st_mtime_ns == at for n, at in kept.items())
    assert all(epochs_of(row.folder) == [1, 2, 3, 4] for row in rows)


# --- on one Ray


def earlier(cfg: Config, *scores: float, **options: Any) -> SearchStudy:
    """Return a search of two trials whose first finished in an earlier session, with these scores."""
    setting = make_setting(cfg, None, [LR], num_samples=2, **options)
    setting.folder.mkdir(parents=True)
    write_identity(setting)
    study = SearchStudy(setting)
    assert study.ask() == 1
    first = to_dict(make_plan(setting.trial("0001", study.params(1))).cfg)
    evaluated(setting, 1, *scores)
    (setting.folder / "trials" / "0001" / "config.json").write_text(json.dumps(first))
    study.end(1, "finished", seconds=5.0)
    return study


@slow
@on_shared_ray
def test_a_search_of_before_continues_and_its_ended_trials_keep_their_values(cfg: Config) -> None:
    cfg = override(cfg, {"run.name": "old"})
    shutil.copytree(OLD, folder_of(cfg))
    for path in folder_of(cfg).rglob("*.json"):
        text = path.read_text().replace("@RUNS@", cfg.run.storage_path).replace("@DATA@", cfg.data.root)
        path.write_text(text)
    before = study_of(cfg).rows()
    assert [row.state for row in before] == ["finished", "stopped", "finished", "waiting"]
    result = tune(cfg, sets=[LR], num_samples=4, concurrent=1, out=io.StringIO())
    after = result.search.rows
    assert after[:3] == before[:3] and [row.score for row in before] == [0.1, 2 / 30, 0.1, pytest.approx(0.1, abs=0.1)]
    assert after[3].params == before[3].params and after[3].state in ("finished", "stopped")
    assert after[3].seconds > before[3].seconds


@slow
@pytest.mark.soak
@on_shared_ray
def test_a_stopped_trial_leaves_no_placement_group_and_no_worker(cfg: Config) -> None:
    """And a trial whose actor is killed continues, with the machines of its workers given back."""
    cfg = override(cfg, {"schedule.epochs": 8})
    earlier(cfg, *[0.99] * 8)  # trial 2 cannot but be stopped
    killed: list[int] = []

    class Out(io.StringIO):
        def write(self, text: str) -> int:
            if "trial 2 of 2  starts" in text and not killed:
                killed.append(_kill_a_trial_s_actor(folder_of(cfg)))
            return super().write(text)

    result = tune(cfg, sets=[LR], num_samples=2, out=(out := Out()))
    assert [row.state for row in result.search.rows] == ["finished", "stopped"] and killed, out.getvalue()
    assert result.search.rows[1].epochs < 8
    until(lambda: not placement_groups(), "placement groups to be removed")
    until(lambda: not controllers(), "controllers to end")


def controllers() -> list[Any]:
    """Return Ray Train's controllers that are alive."""
    from ray._private.state import actors

    return [a for a in actors().values() if a["ActorClassName"] == "TrainController" and a["State"] != "DEAD"]


def _kill_a_trial_s_actor(folder: Path) -> int:
    until(lambda: list(folder.glob("trials/*/ray/*.group")), "a trial's workers")
    victim = next(p.pid for p in descendants(os.getpid()) if "ray::ResourceTrainable" in " ".join(p.cmdline()))
    kill(victim)
    return int(victim)


@slow
@on_shared_ray
@pytest.mark.soak
def test_the_best_continues_to_its_end_if_it_was_stopped(cfg: Config) -> None:
    study = earlier(cfg, 0.1, 0.1)
    assert study.ask() == 2
    folder = begun(study.setting.trial("0002", study.params(2)))
    (folder / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "step": 8, "top1": 0.99}) + "\n")
    study.end(2, "stopped", seconds=5.0)
    result = tune(cfg, sets=[LR], num_samples=2, out=(out := io.StringIO()))
    row = result.search.rows[1]
    assert "trial 2, stopped early, is the best: it continues" in out.getvalue()
    assert (row.state, row.epochs) == ("finished", cfg.schedule.total_epochs), out.getvalue()
    assert row.seconds > 5 and ended(cfg, 2)


@slow
@on_shared_ray
@pytest.mark.soak
def test_a_budget_ends_the_search_in_time_with_the_best_so_far(cfg: Config) -> None:
    cfg = override(cfg, {"schedule.epochs": 4000})
    earlier(cfg, 0.5, scheduler="none")
    result = tune(cfg, sets=[LR], num_samples=2, scheduler="none", budget="30s", out=io.StringIO())
    assert result.search.ended == "the budget is used up" and result.search.seconds < 30 + 15
    assert [row.state for row in result.search.rows] == ["finished", "waiting"] and result.metrics["top1"] == 0.5
    assert load(result.dir / "best.json") == result.config


@slow
@on_shared_ray
@pytest.mark.timeout(1200)  # eight starts of workers, half a minute each
@pytest.mark.soak
def test_pbt_lets_the_worse_continue_from_the_better_with_changed_values(cfg: Config) -> None:
    cfg = override(cfg, {"schedule.epochs": 4, "schedule.warmup_epochs": 0})
    taking_turns = {"num_samples": 2, "concurrent": 1}  # side by side one may end before the other has begun
    result = tune(cfg, sets=[LR], algorithm="pbt", **taking_turns, out=(out := io.StringIO()))
    donations = result.search.donations
    assert donations, out.getvalue()
    assert all(one.donor != one.number and 1 <= one.epoch < 4 for one in donations)
    first = min(donations, key=lambda one: one.epoch)
    donor = load(folder_of(cfg) / "trials" / f"{first.donor:04d}" / "config.json")
    assert first.after["optim.lr"] not in (first.before["optim.lr"], donor.optim.lr)
    assert 1e-4 <= first.after["optim.lr"] <= 1e-1
    folder = folder_of(cfg) / "trials" / f"{first.number:04d}-g1"
    assert epochs_of(folder)[: first.epoch] == list(range(1, first.epoch + 1))
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[0]) == json.loads(
        (folder_of(cfg) / "trials" / f"{first.donor:04d}" / "metrics.jsonl").read_text().splitlines()[0]
    )
    assert "takes over" in out.getvalue() and (folder_of(cfg) / "lineage.csv").is_file()
    assert all(row.state == "finished" and row.epochs == 4 for row in result.search.rows)


@slow
@on_shared_ray
@pytest.mark.soak
def test_two_objectives_give_a_front(cfg: Config) -> None:
    cfg = override(cfg, {"schedule.epochs": 1})
    sets = [LR, "model.image_size=choice(none, 32)"]
    seeded = (override(cfg, {"run.seed": seed}) for seed in range(9))
    cfg = next(c for c in seeded if first_points(make_setting(c, None, sets), 2)[1]["model.image_size"] == 32)
    result = tune(cfg, sets=sets, num_samples=2, objectives=["latency_ms"], out=io.StringIO())
    values = {row.params["model.image_size"]: row.values["latency_ms"] for row in result.search.rows}
    assert values[32] < values[None] and {row.state for row in result.search.rows} == {"finished"}
    assert list(result.trials["number"]) == [1, 2]
    assert "Score against latency_ms" in (result.dir / "summary.md").read_text()
