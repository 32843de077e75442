"""Searches on a Ray: from the command line to the files they leave; killed, interrupted, on a cluster, with PBT."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from raydet.config import Config, load, override
from raydet.driver.fit import fit
from raydet.tuning.search.study import Record
from raydet.tuning.settings import make_setting
from raydet.tuning.tune import tune
from tests.commands import alive, begun, descendants, environment, kill, raydet, running, training_workers, until, words

pytestmark = pytest.mark.slow

LR = "optim.lr=loguniform(1e-4, 1e-1)"


@pytest.fixture
def cfg(classification: Config) -> Config:
    return override(classification, {"scaling.num_workers": 1, "scaling.threads": 1, "run.name": "search"})


def command(cfg: Config, *more: str) -> list[str]:
    return ["tune", *words(cfg), *more]


def folder_of(cfg: Config) -> Path:
    return Path(cfg.run.storage_path) / cfg.run.name


def record_of(cfg: Config, **told: Any) -> Record:
    return Record(make_setting(cfg, None, [LR], **told))


def ended(cfg: Config, number: int) -> bool:
    """Whether the trial's run has gone to its end."""
    return (folder_of(cfg) / "trials" / f"{number:04d}" / "result.json").is_file()


def epochs_of(folder: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def placement_groups() -> list[str]:
    """Return the states of the placement groups that are not gone."""
    from ray.util.placement_group import placement_group_table

    return [group["state"] for group in placement_group_table().values() if group["state"] != "REMOVED"]


def left_in(folder: str) -> list[int]:
    """Return the processes whose command line names that folder of Ray's."""
    found = subprocess.run(["pgrep", "-f", folder], capture_output=True, text=True, check=False).stdout
    return [int(pid) for pid in found.split()]


def test_a_search_from_the_command_line_to_the_next_fit(cfg: Config, tmp_path: Path) -> None:
    """Some trials can only fail; default and best are repeated."""
    split = "data.train=choice(train, nowhere)"
    sets = ["--set", LR, "--set", split, "--run.seed", "3"]
    told = command(cfg, *sets, "--num-samples", "4", "--confirm", "1", "--json")
    done = raydet(*told, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    found = json.loads(done.stdout)
    folder = folder_of(cfg)
    record = Record(make_setting(override(cfg, {"run.seed": 3}), None, [LR, split]))
    rows = record.rows()
    assert [row.number for row in rows] == [1, 2, 3, 4] and found["trials"] == 4
    failed = [row for row in rows if row.params["data.train"] == "nowhere"]
    assert failed and all(row.state == "failed" and str(row.error).startswith("DataError") for row in failed)
    assert rows[0].state == "finished" and rows[0].params["optim.lr"] == cfg.optim.lr
    assert found["top1"] == max(row.score or 0.0 for row in rows if row.state == "finished")
    assert done.stderr.count("failed") >= len(failed) and "Traceback" not in done.stderr
    for name in ("best.json", "trials.csv", "summary.md", "optuna.journal", "figures/history.png"):
        assert (folder / name).is_file(), name
    assert (folder / "trials" / "0001-seed4" / "result.json").is_file()
    assert load(folder / "best.json").optim.lr == rows[found["best"] - 1].params["optim.lr"]
    again = raydet("fit", "--from", str(folder / "best.json"), "--dry-run", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    before = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/*.json*")}
    done = raydet(*told, cwd=tmp_path)
    assert done.returncode == 0 and "nothing left to try" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_key_that_does_not_exist_is_refused_before_ray_starts(cfg: Config, tmp_path: Path) -> None:
    done = raydet(*command(cfg, "--set", "optim.learning_rate=uniform(0, 1)"), cwd=tmp_path)
    assert done.returncode == 2 and "optim.learning_rate: no such field" in done.stderr
    assert "optim.lr" in done.stderr and not folder_of(cfg).exists()


@contextmanager
def another_ray() -> Iterator[None]:
    """A second Ray on this machine, of somebody else's."""
    code = (
        "import ray, sys, tempfile; ray.init(address='local', num_cpus=1, object_store_memory=10**8, "
        "include_dashboard=False, log_to_driver=False, _temp_dir=tempfile.mkdtemp(prefix='other', dir='/tmp')); "
        "print('up', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-c", code], text=True, env=environment(), **pipes)  # type: ignore[call-overload]
    try:
        assert process.stdout.readline() == "up\n"
        yield
        assert process.poll() is None, "the other Ray was ended"
    finally:
        left = descendants(process.pid)
        process.kill()
        process.wait(60)
        for child in alive(left):
            child.kill()


def test_a_killed_driver_s_search_goes_on_beside_another_ray(cfg: Config, tmp_path: Path) -> None:
    cfg = override(cfg, {"schedule.epochs": 6})
    told = command(cfg, "--set", LR, "--num-samples", "5", "--scheduler", "none")
    trials = folder_of(cfg) / "trials"
    with another_ray():
        with running(told, tmp_path) as process:
            until(lambda: ended(cfg, 1) or ended(cfg, 2), "the first trial's end")
            until(lambda: (trials / "0003" / "metrics.jsonl").is_file(), "a third trial's first epoch")
            below = descendants(process.pid)
            kill(process.pid)
            until(lambda: not alive(below), "the end of what the killed driver had started")
        known = record_of(cfg)
        before = {row.number: row for row in known.rows()}
        kept = {n: (trials / f"{n:04d}" / "result.json").stat().st_mtime_ns for n in before if ended(cfg, n)}
        assert kept and known.unfinished() and len(before) < 5
        begun = {
            n: epochs_of(trials / f"{n:04d}")
            for n in known.unfinished()
            if (trials / f"{n:04d}" / "metrics.jsonl").exists()
        }
        with running([*told, "--json"], tmp_path) as process:
            assert process.wait(600) == 0, (tmp_path / "stderr.txt").read_text()
            assert not alive(descendants(process.pid))
    rows = record_of(cfg).rows()
    assert [row.number for row in rows] == [1, 2, 3, 4, 5] and {row.state for row in rows} == {"finished"}
    assert all(rows[n - 1].params == row.params for n, row in before.items())
    assert len({json.dumps(row.params, sort_keys=True) for row in rows}) == 5  # none twice
    assert all((trials / f"{n:04d}" / "result.json").stat().st_mtime_ns == at for n, at in kept.items())
    assert all(epochs_of(row.folder) == [1, 2, 3, 4, 5, 6] for row in rows) and begun
    for number, epochs in begun.items():  # taken up, not begun anew: the lines of before are still there
        log = (trials / f"{number:04d}" / "log.json").read_text()
        assert log.count('"step": [0,') < 2 * 4 + 2 or epochs == []


def test_ctrl_c_leaves_nothing_running_and_the_same_command_goes_on(cfg: Config, tmp_path: Path) -> None:
    told = command(override(cfg, {"schedule.epochs": 4}), "--set", LR, "--num-samples", "3")
    with running(told, tmp_path) as process:
        until(lambda: training_workers(process.pid), "a training worker")
        below = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
        until(lambda: not alive(below), "the end of what it had started")
    err = (tmp_path / "stderr.txt").read_text()
    assert "interrupted; the same command continues where it was left" in err and "Traceback" not in err
    with running(told, tmp_path) as process:
        assert process.wait(600) == 0
    assert len(record_of(override(cfg, {"schedule.epochs": 4})).rows()) == 3


def test_a_budget_ends_the_search_in_time_with_the_best_so_far(cfg: Config) -> None:
    cfg = override(cfg, {"schedule.epochs": 400})
    out = io.StringIO()
    result = tune(cfg, sets=[LR], num_samples=9, budget="75s", out=out)
    assert result.search.ended == "the budget is used up" and result.search.seconds < 75 + 15
    assert result.metrics["top1"] > 0 and {row.state for row in result.search.rows} <= {"waiting", "stopped"}
    assert load(result.dir / "best.json") == result.config


@pytest.fixture
def own_ray() -> Iterator[None]:
    """A Ray of this process, that tune joins."""
    import ray

    folder = tempfile.mkdtemp(prefix="rd", dir="/tmp")
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=2, object_store_memory=200 * 2**20, _temp_dir=folder, **quiet)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def controllers() -> list[Any]:
    """Return Ray Train's controllers that are alive."""
    from ray._private.state import actors

    return [a for a in actors().values() if a["ActorClassName"] == "TrainController" and a["State"] != "DEAD"]


def test_stopped_trials_leave_no_placement_group_and_no_worker(cfg: Config, own_ray: None) -> None:
    """And a trial whose actor is killed goes on, with the machines of its workers given back."""
    cfg = override(cfg, {"schedule.epochs": 16})
    killed: list[int] = []

    class Out(io.StringIO):
        def write(self, text: str) -> int:
            if "trial 2 of 4  begins" in text and not killed:
                killed.append(_kill_a_trial_s_actor(folder_of(cfg)))
            return super().write(text)

    result = tune(cfg, sets=[LR], num_samples=4, out=Out())
    states = [row.state for row in result.search.rows]
    assert len(states) == 4 and "stopped" in states and "failed" not in states and killed[0] > 0
    until(lambda: not placement_groups(), "placement groups to be removed")
    until(lambda: not controllers(), "controllers to end")


def _kill_a_trial_s_actor(folder: Path) -> int:
    until(lambda: list(folder.glob("trials/*/ray/*.group")), "a trial's workers")
    victim = next(p.pid for p in descendants(os.getpid()) if "ray::ResourceTrainable" in " ".join(p.cmdline()))
    kill(victim)
    return int(victim)


def test_the_best_goes_on_to_its_end_if_it_was_stopped(cfg: Config) -> None:
    tune(cfg, sets=[LR], num_samples=1, out=io.StringIO())
    record = record_of(cfg, num_samples=2)
    assert record.propose() == 2
    folder = begun(record.setting.trial("0002", record.params(2)))
    (folder / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "step": 8, "top1": 0.99}) + "\n")
    record.end(2, "stopped", seconds=5.0)
    result = tune(cfg, sets=[LR], num_samples=2, out=(out := io.StringIO()))
    row = result.search.rows[1]
    assert "trial 2, stopped early, is the best: it goes on" in out.getvalue()
    assert (row.state, row.epochs) == ("finished", cfg.schedule.total_epochs), out.getvalue()
    assert row.seconds > 5 and ended(cfg, 2)


def test_pbt_lets_the_worse_go_on_from_the_better_with_changed_values(cfg: Config, tmp_path: Path) -> None:
    cfg = override(cfg, {"schedule.epochs": 40, "schedule.warmup_epochs": 0})
    result = tune(cfg, sets=[LR], num_samples=2, algorithm="pbt", out=(out := io.StringIO()))
    donations = result.search.donations
    assert donations, out.getvalue()
    assert all(one.donor != one.number and 1 <= one.epoch < 40 for one in donations)
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
    assert all(row.state == "finished" and row.epochs == 40 for row in result.search.rows)


def test_two_objectives_give_a_front(cfg: Config) -> None:
    sets = [LR, "model.image_size=choice(none, 32)"]
    result = tune(cfg, sets=sets, num_samples=3, objectives=["latency_ms"], out=io.StringIO())
    values = {row.params["model.image_size"]: row.values["latency_ms"] for row in result.search.rows}
    assert {row.state for row in result.search.rows} == {"finished"}
    assert len(values) == 1 or values[32] < values[None]
    assert "Score against latency_ms" in (result.dir / "summary.md").read_text()


def test_the_best_configuration_trains(cfg: Config) -> None:
    result = tune(cfg, sets=[LR], num_samples=2, out=io.StringIO())
    trained = fit(override(result.config, {"scaling.num_workers": 0}), out=io.StringIO())
    assert trained.dir == folder_of(cfg).with_name("search-best")
    assert trained.metrics["top1"] == pytest.approx(result.metrics["top1"], abs=0.1)
    assert re.match(r"\d", str(result.trials.shape[0])) and list(result.trials["number"]) == [1, 2]
