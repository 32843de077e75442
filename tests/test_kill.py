"""Runs that are killed, and what comes of them: to the bit what comes of an undisturbed run."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch

from raydet.config import Config, override
from raydet.driver.fit import fit
from raydet.driver.plan import make_plan
from raydet.runs import checkpoint_store
from tests.commands import alive, descendants, kill, logged_steps, running, training_workers, until, words
from tests.workers import run_workers

pytestmark = pytest.mark.slow

EPOCHS = 8
"""Two kills are in the second and the fourth; what is left is time for a driver to be slow to die."""


def run_folder(cfg: Config) -> Path:
    return Path(cfg.run.storage_path) / cfg.run.name


def trains_in(folder: Path, epoch: int) -> bool:
    """Whether a training step of that epoch (from 1) was logged and its end was not."""
    last = next(reversed(logged_steps(folder)), None)
    return last is not None and last[0] == epoch - 1 and last[-1] < 6


def same_as_undisturbed(cfg: Config, workers: int, tmp_path: Path) -> bool:
    """Whether the run's newest checkpoint equals, tensor for tensor, that of plain processes never disturbed."""
    plain = make_plan(override(cfg, {"run.storage_path": str(tmp_path / "undisturbed")}))
    run_workers(plain.cfg, plain.folder, workers)
    ours, theirs = (checkpoint_store.newest(folder / "checkpoints") for folder in (run_folder(cfg), plain.folder))
    assert ours is not None and theirs is not None and ours.step == theirs.step
    assert ours.names == ["ema", "model", "optim"]
    pairs = ((ours.tensors(name), theirs.tensors(name)) for name in ours.names)
    return all(torch.equal(tensor, other[key]) for one, other in pairs for key, tensor in one.items())


def steps_written(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def kill_worker_in(epoch: int, pid: int, folder: Path) -> None:
    until(lambda: trains_in(folder, epoch), f"a step of epoch {epoch}")
    kill(training_workers(pid)[-1].pid)


def kill_driver_in(epoch: int, pid: int, folder: Path) -> None:
    until(lambda: trains_in(folder, epoch), f"a step of epoch {epoch}")
    workers = training_workers(pid)
    kill(pid)
    until(lambda: not alive(workers), "the end of the killed driver's workers")  # some seconds
    found = checkpoint_store.newest(folder / "checkpoints")
    assert found is not None and epoch - 1 <= found.epoch < EPOCHS


@pytest.mark.ray
def test_two_workers_survive_a_kill_of_one(classification: Config, tmp_path: Path) -> None:
    changes = {"scaling.num_workers": 2, "schedule.epochs": 3, "run.max_failures": 1, "scaling.threads": 1}
    cfg = override(classification, changes)
    with running(["fit", *words(cfg)], tmp_path) as process:
        kill_worker_in(2, process.pid, run_folder(cfg))
        assert process.wait(300) == 0
    assert "restart   1 of 1, from the newest checkpoint: worker " in (tmp_path / "stderr.txt").read_text()
    assert steps_written(run_folder(cfg)) == [8, 16, 24]
    assert same_as_undisturbed(cfg, 2, tmp_path)


@pytest.mark.soak
def test_two_workers_survive_a_kill_of_one_and_then_of_the_driver(classification: Config, tmp_path: Path) -> None:
    """With checkpoints in mid-epoch."""
    changes = {"scaling.num_workers": 2, "run.checkpoint_steps": 3, "schedule.epochs": EPOCHS, "run.max_failures": 1}
    cfg = override(classification, {**changes, "scaling.threads": 1})
    folder = run_folder(cfg)
    with running(["fit", *words(cfg)], tmp_path) as process:
        kill_worker_in(2, process.pid, folder)
        kill_driver_in(4, process.pid, folder)
    err = (tmp_path / "stderr.txt").read_text()
    assert "restart   1 of 1, from the newest checkpoint: worker " in err
    with running(["fit", *words(cfg), "--json"], tmp_path) as process:
        assert process.wait(300) == 0
    out, err = ((tmp_path / name).read_text() for name in ("stdout.txt", "stderr.txt"))
    assert out.count("\n") == 1 and json.loads(out)["run"] == str(folder)  # nothing else, of Ray or of workers
    assert "continue  after epoch" in err and "Traceback" not in err and "(raylet)" not in err
    assert steps_written(folder) == list(range(8, EPOCHS * 8 + 1, 8))
    shown = re.findall(rf"^epoch (\d+)/{EPOCHS}  train loss", err, re.MULTILINE)
    assert shown == sorted(set(shown), key=int) and shown[-1] == str(EPOCHS)  # no epoch twice, whatever was repeated
    assert same_as_undisturbed(cfg, 2, tmp_path)


@pytest.mark.soak
def test_one_worker_that_dies_too_often_fails_the_run_and_the_same_command_goes_on(
    classification: Config, tmp_path: Path
) -> None:
    """With checkpoints at the ends of epochs only. After the failure the driver is killed as well."""
    changes = {"scaling.num_workers": 1, "schedule.epochs": EPOCHS, "run.max_failures": 0, "scaling.threads": 1}
    cfg = override(classification, changes)
    folder = run_folder(cfg)
    with running(["fit", *words(cfg)], tmp_path) as process:
        kill_worker_in(2, process.pid, folder)
        assert process.wait(120) == 1  # the end of Ray takes long on a busy machine
        message = (tmp_path / "stderr.txt").read_text().partition("raydet: ")[2].splitlines()
        assert list(Path(message[1].removeprefix("Ray's logs: ")).glob("worker-*.err"))
    assert "workers failed 1 times without a new checkpoint, run.max_failures=0; the last time: worker 0" in message[0]
    assert message[2:] == ["The same command continues from the last checkpoint"]
    with running(["fit", *words(cfg)], tmp_path) as process:
        kill_driver_in(4, process.pid, folder)
    fit(override(cfg, {"scaling.num_workers": 0}))  # the rest without Ray: that must make no difference either
    assert steps_written(folder) == list(range(8, EPOCHS * 8 + 1, 8))
    assert same_as_undisturbed(cfg, 1, tmp_path)


@pytest.mark.soak
def test_ctrl_c_ends_a_run_on_ray_with_its_last_step_saved(classification: Config, tmp_path: Path) -> None:
    cfg = override(classification, {"scaling.num_workers": 2, "scaling.cpus_per_worker": 1, "schedule.epochs": 60})
    folder = run_folder(cfg)
    with running(["fit", *words(cfg)], tmp_path) as process:
        until(lambda: trains_in(folder, 2), "a step of epoch 2")
        below = descendants(process.pid)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
        assert alive(below) == []
    err = (tmp_path / "stderr.txt").read_text().splitlines()
    assert err[-1] == "raydet: interrupted; the same command continues from the last checkpoint"
    known = {"run", "model", "data", "classes", "train", "weights", "memory", "starting", "epoch", "stopping"}
    assert {line.split()[0] for line in err[:-1]} <= known
    plan = make_plan(cfg)
    assert plan.continues is not None and not plan.finished
    epoch, step = logged_steps(folder)[-1]
    assert plan.continues.step >= 8 * epoch + step + 1
