"""A run that is asked to stop: a checkpoint of its last step, on all workers the same, and nothing is lost by it."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet.config import Config, override
from raydet.distributed import WorkerGroup
from raydet.driver.first_signal import first_signal
from raydet.driver.fit import fit
from raydet.driver.plan import make_plan
from raydet.exceptions import Stopped
from raydet.runs import stop_request
from raydet.training import scoring, worker
from raydet.training.wishes import Wish, Wishes
from tests.recording import capture_on_cpu
from tests.training.test_worker import same_tensors
from tests.workers import newest, run_workers, trained


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, rank: int = 0) -> None:
    """Ask the worker of this rank to stop when it is about to make that step (from 0), counted over all epochs."""
    asked = [0]

    def watch(folder: Path) -> Any:
        here = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0

        def is_asked() -> bool:
            asked[0] += 1
            return here == rank and asked[0] > step

        return is_asked

    monkeypatch.setattr(stop_request, "watch", watch)


@pytest.mark.parametrize("step", [2, 7])
def test_a_run_that_was_stopped_ends_as_an_undisturbed_one(
    step: int, classification: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an epoch, and at its last step."""
    whole = trained(classification, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Stopped, match=f"stopped after step {step + 1}"):
        stop_at(patch, step)
        trained(classification, tmp_path / "parts")
    assert newest(tmp_path / "parts").step == step + 1 and newest(tmp_path / "parts").epoch == 0
    assert same_tensors(whole, trained(classification, tmp_path / "parts"))
    rows = [[json.loads(line) for line in (folder / "metrics.jsonl").open()] for folder in (whole, tmp_path / "parts")]
    for one, other in zip(*rows, strict=True):
        assert {key: one[key] for key in ("step", "top1", "train_loss", "eval_loss")} == pytest.approx(
            {key: other[key] for key in ("step", "top1", "train_loss", "eval_loss")}, rel=1e-12
        )


def test_scoring_is_left_and_done_again(detection: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(detection, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="stopped after step 6"):
        stop_at(patch, 6)  # six steps, then the first batch of the first evaluation
        trained(detection, tmp_path / "parts")
    assert newest(tmp_path / "parts").epoch == 0 and not (tmp_path / "parts" / "metrics.jsonl").read_text()
    assert same_tensors(whole, trained(detection, tmp_path / "parts"))
    scores = [[json.loads(line)["AP50"] for line in (f / "metrics.jsonl").open()] for f in (whole, tmp_path / "parts")]
    assert scores[0] == scores[1]


def test_scoring_is_left_on_all_workers_alike() -> None:
    with pytest.raises(scoring.ScoringStopped):
        scoring.score(torch.nn.Identity(), _Nothing(), None, [], Config(), WorkerGroup(), stop=lambda: True)


class _Nothing:
    def scorer(self, index: object) -> Any:
        return None


def test_a_wish_reaches_a_replayed_step() -> None:
    wishes, number, found = Wishes(torch.device("cpu")), torch.tensor(3.0), torch.zeros(())
    replay = capture_on_cpu(lambda: found.copy_(wishes.carried(number, WorkerGroup())))  # type: ignore[arg-type,return-value]
    for wish in (Wish(), Wish(stop=True), Wish(save=True)):
        wishes.ask(wish)
        replay()
        assert found == 3 and wishes.agreed() == wish


def test_a_checkpoint_is_made_when_the_last_is_old(classification: Config, tmp_path: Path) -> None:
    changes = {"run.checkpoint_minutes": 1e-6, "schedule.epochs": 1, "run.keep": 20}
    folder = trained(override(classification, changes), tmp_path / "a")
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == [f"step_{n:08d}" for n in range(1, 9)]
    whole = trained(override(classification, changes | {"run.checkpoint_minutes": None}), tmp_path / "b")
    assert same_tensors(folder, whole)


def _one_is_asked(cfg: Config, folder: Path, workers: WorkerGroup, tell: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3, rank=1)
        try:
            worker.train(cfg, folder, workers, tell)
        except Stopped as stopped:
            (folder / f"stopped_{workers.rank}").write_text(str(stopped))


@pytest.mark.slow
def test_what_one_worker_is_asked_all_do_after_the_same_step(classification: Config, tmp_path: Path) -> None:
    cfg = make_plan(override(classification, {"scaling.num_workers": 0})).cfg
    run_workers(cfg, tmp_path, 2, _one_is_asked)
    assert {(tmp_path / f"stopped_{rank}").read_text() for rank in (0, 1)} == {"stopped after step 4"}
    assert newest(tmp_path).step == 4


def test_a_file_in_the_runs_folder_stops_it(classification: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_plan(classification).folder
    monkeypatch.setattr(worker, "write_preview", lambda *_: stop_request.request(folder))
    with pytest.raises(Stopped, match="stopped after step 1"):
        fit(classification)
    assert not stop_request.is_requested(folder) and newest(folder).step == 1


def test_ctrl_c_is_answered_with_a_checkpoint_and_then_as_before(
    classification: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worker, "write_preview", lambda *_: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(stop_request, "_POLL_S", 0.0)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(override(classification, {"schedule.epochs": 500}))
    assert newest(make_plan(classification, fresh=True).folder).step >= 1
    assert "stopping  with a checkpoint of the last step" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_is_answered_at_once() -> None:
    answered: list[int] = []
    with pytest.raises(KeyboardInterrupt), first_signal(answered.append):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
