"""`raydet.fit`: without Ray, on a Ray of its own, and on one that is there; what failures mean."""

import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import warnings
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from raydet.config import Config, load, override
from raydet.driver import fit as fitting
from raydet.driver.fit import Result, fit
from raydet.driver.plan import make_plan
from raydet.driver.resources import check_room, per_worker, room
from raydet.exceptions import ConfigError, DataError, LostWorkers, RunFailed, StorageFull
from raydet.runs import checkpoint_store
from tests.commands import alive, descendants

# --- without Ray


@pytest.fixture(scope="module")
def finished(trained_classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, str]:
    """A run of two epochs and what was shown of it."""
    cfg = override(load(trained_classifier / "config.json"), {"run.storage_path": str(tmp_path_factory.mktemp("runs"))})
    return fit(cfg, out=(out := io.StringIO())), out.getvalue()


@pytest.mark.slow
def test_fit_returns_metrics_best_last_folder_and_config(finished: tuple[Result, str]) -> None:
    result, shown = finished
    assert result.dir == Path(result.config.run.storage_path) / "run" and result.config.model.num_classes == 10
    assert result.last.name == "step_00000016" and result.best.parent == result.last.parent
    best = checkpoint_store.read(result.best)
    assert result.metrics == best.metrics and 0 <= result.metrics["top1"] <= 1
    assert json.loads((result.dir / "result.json").read_text())["step"] == 16
    assert re.search(r"epoch 1/2 .*\nepoch 2/2 ", shown)


def test_the_same_call_again_returns_the_same_result_without_training(finished: tuple[Result, str]) -> None:
    first, _ = finished
    before = {path: path.stat().st_mtime_ns for path in first.dir.rglob("*") if path.is_file() and path.name != ".lock"}
    out = io.StringIO()
    assert fit(first.config, out=out) == first and "nothing left to train" in out.getvalue()
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_a_finished_run_whose_last_checkpoint_is_damaged_is_trained_to_its_end_again(
    classification: Config, finished: tuple[Result, str]
) -> None:
    first, _ = finished
    weights = checkpoint_store.read(first.last).tensors("model")
    folder = Path(shutil.copytree(first.dir, Path(classification.run.storage_path) / "run"))
    (folder / "checkpoints" / first.last.name / "model.safetensors").write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = fit(classification, out=(out := io.StringIO()))
    assert again.last == folder / "checkpoints" / first.last.name
    assert re.findall(r"^epoch (\d)/2  train loss", out.getvalue(), re.MULTILINE) == ["2"]
    assert all(torch.equal(v, weights[k]) for k, v in checkpoint_store.read(again.last).tensors("model").items())


@pytest.mark.slow
def test_no_room_for_a_checkpoint_ends_the_run_as_itself(
    classification: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_store, "_free_bytes", lambda folder: 1000)
    with pytest.raises(StorageFull, match="no room for a checkpoint"):
        fit(classification, out=io.StringIO())


@pytest.mark.slow
def test_progress_shows_each_epoch_once_when_a_run_is_taken_up(classification: Config, begun_run: Path) -> None:
    fit(classification, out=(out := io.StringIO()))
    assert re.findall(r"^epoch (\d)/2  train loss", out.getvalue(), re.MULTILINE) == ["2"]
    assert "continue  after epoch 1, step 8" in out.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["save", "prune"])
def test_a_kill_before_or_after_a_save_leaves_no_epoch_out_and_none_twice(
    moment: str, classification: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = getattr(checkpoint_store, moment), []

    def killed(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise InterruptedError
        return real(*arguments)

    monkeypatch.setattr(checkpoint_store, moment, killed)
    with pytest.raises(InterruptedError):
        fit(classification, out=io.StringIO())
    folder = fit(classification, out=io.StringIO()).dir
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [8, 16]
    assert [line.split(",")[1] for line in (folder / "results.csv").read_text().splitlines()] == ["step", "8", "16"]


# --- how much each worker reserves


@pytest.mark.parametrize(
    ("changes", "nodes", "own", "cpus"),
    [
        ({"scaling.num_workers": 1}, [8], True, 8),
        ({"scaling.num_workers": 2}, [8], True, 4),
        ({"scaling.num_workers": 3}, [8], True, 2),
        ({"scaling.num_workers": (1, 2)}, [8], True, 4),
        ({"scaling.num_workers": 1}, [8], False, 4),  # 1 + data.workers
        ({"scaling.num_workers": 4}, [8], False, 2),
        ({"scaling.num_workers": 1}, [1], False, 1),
        ({"scaling.num_workers": 2}, [1], False, 0.5),
        ({"scaling.num_workers": 3}, [1], False, 0.3333),
        ({"scaling.num_workers": 2}, [0, 1, 1], False, 1),
        ({"scaling.num_workers": 3}, [2, 2], False, 1),
        ({"scaling.num_workers": (1, 2)}, [1], False, 1),  # starts with one
        ({"scaling.num_workers": 2, "scaling.cpus_per_worker": 3}, [8], False, 3),
    ],
)
def test_cpus_are_shared_so_that_all_workers_have_room(
    changes: dict[str, object], nodes: list[int], own: bool, cpus: float, classification: Config
) -> None:
    cfg = override(classification, {"data.workers": 3, **changes})
    machines = [{"CPU": float(count), "memory": 1e9} for count in nodes]
    wanted = per_worker(cfg, machines, own)
    assert wanted == {"CPU": pytest.approx(cpus)}
    assert room(machines, wanted) >= cfg.scaling.worker_range[0]
    check_room(cfg, machines, wanted)


def test_a_worker_may_take_a_part_of_a_gpu(classification: Config) -> None:
    cfg = override(classification, {"scaling.num_workers": 1, "scaling.use_gpu": True, "scaling.gpus_per_worker": 0.25})
    wanted = per_worker(cfg, [{"CPU": 8.0, "GPU": 1.0}], False)
    assert wanted == {"CPU": 1.0, "GPU": 0.25} and room([{"CPU": 8.0, "GPU": 1.0}], wanted) == 4


def test_cpus_are_left_for_as_many_workers_as_are_to_have_room(classification: Config) -> None:
    """Of a search that is one a trial: eight GPUs and sixteen cores are eight trials, not one with nine cores."""
    cfg = override(classification, {"data.workers": 8, "scaling.num_workers": 1, "scaling.use_gpu": True})
    machine = {"CPU": 16.0, "GPU": 8.0}
    assert per_worker(cfg, [machine], False) == {"CPU": 9.0, "GPU": 1.0}
    assert per_worker(cfg, [machine], False, workers=8) == {"CPU": 2.0, "GPU": 1.0}


def test_a_gpu_worker_takes_its_cpus_from_a_machine_with_a_gpu(classification: Config) -> None:
    cfg = override(classification, {"data.workers": 7, "scaling.num_workers": 4, "scaling.use_gpu": True})
    machines = [{"CPU": 64.0}, {"CPU": 16.0, "GPU": 4.0}]
    assert per_worker(cfg, machines, False) == {"CPU": 4.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scaling.use_gpu": True}, "room for 0 workers of 1 CPU, 1 GPU; its nodes have 4 CPU, 0 GPU"),
        ({"scaling.cpus_per_worker": 8}, "room for 0 workers of 8 CPU"),
    ],
)
def test_workers_that_never_find_room_are_refused(
    changes: dict[str, object], message: str, classification: Config
) -> None:
    cfg = override(classification, {"scaling.num_workers": 2, **changes})
    with pytest.raises(ConfigError, match=message):
        check_room(cfg, [{"CPU": 4.0}], per_worker(cfg, [{"CPU": 4.0}], False))


# --- with Ray


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.slow
@pytest.mark.ray
def test_a_ray_of_its_own_trains_quietly_and_leaves_nothing(
    classification: Config, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An elastic run of one to two workers, on a machine that has room for both."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", tempfile.mkdtemp(dir="/tmp"))
    make_plan(classification)  # torch sets a variable of its own when it first builds a model on its meta device
    before = dict(os.environ), handlers()
    others = descendants(os.getpid())  # of other tests
    cfg = override(classification, {"scaling.num_workers": (1, 2), "scaling.cpus_per_worker": 1})
    result = fit(cfg)
    assert (dict(os.environ), handlers()) == before
    assert set(alive(descendants(os.getpid()))) <= set(others) and os.listdir(os.environ["RAY_TMPDIR"]) == []
    out, err = capfd.readouterr()
    assert out == "" and result.last.name == "step_00000016"
    said = [line.split()[0] for line in err.splitlines()]
    assert said[:7] == ["run", "model", "data", "classes", "train", "weights", "memory"]
    assert set(said[7:]) == {"starting", "epoch"}
    assert re.findall(r"^epoch (\d)/2  train loss", err, re.MULTILINE) == ["1", "2"]
    os.rmdir(os.environ["RAY_TMPDIR"])


@pytest.mark.slow
def test_a_bad_image_seen_by_one_worker_ends_the_run_with_its_name_and_no_restart(
    classification: Config, toy_classification: Path, tmp_path: Path, shared_ray: None
) -> None:
    root = Path(shutil.copytree(toy_classification, tmp_path / "data"))
    bad = sorted((root / "train").rglob("*.jpg"))[8]  # none of the 32 that are looked at before Ray starts
    bad.write_bytes(bad.read_bytes()[:200])
    cfg = override(classification, {"data.root": str(root), "scaling.num_workers": 2, "scaling.cpus_per_worker": 1})
    out = io.StringIO()
    with pytest.raises(DataError) as caught:
        fit(cfg, out=out)
    assert bad.name in str(caught.value) and "IMG-E0" in str(caught.value)
    assert sys.modules["ray"].is_initialized()  # the caller's Ray is the caller's to end
    assert "restart" not in out.getvalue() and len(list((tmp_path / "runs/run/ray").glob("attempt_*"))) == 1


def test_failures_count_as_long_as_nothing_new_is_saved(detection: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = override(detection, {"scaling.num_workers": 1, "run.max_failures": 1})
    folder, saves = make_plan(cfg).folder / "checkpoints", iter([True, True, True, False])
    steps = iter(range(1, 9))
    tried: list[int] = []

    def attempt(*_: object) -> None:
        tried.append(1)
        if next(saves):
            (folder / f"step_{next(steps):08d}").mkdir(parents=True)
        raise LostWorkers("worker 0 died")

    monkeypatch.setattr(fitting, "attempt", attempt)
    monkeypatch.setattr(fitting, "ray_session", lambda cfg: nullcontext(SimpleNamespace(logs="logs")))
    with pytest.raises(RunFailed, match=r"failed 2 times without a new checkpoint, run\.max_failures=1; the last time"):
        fitting.fit(cfg, out=(out := io.StringIO()))
    assert len(tried) == 4 and out.getvalue().count("restart   1 of 1") == 3
