"""The verb `raydet.fit`: Ray Train workers run `worker.train`, on a local Ray or a cluster; failures are answered here.

Ray keeps nothing that matters: a run lives in its folder, and each attempt is a fresh Ray run that takes up the newest
valid checkpoint there. Restarts are decided here and not by Ray, which would repeat a full disk or bad data just as it
repeats a lost machine. What is known of Ray 2.60 and worked around stands where it is done.
"""

import json
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from raydet.config import Config, override
from raydet.distributed import WorkerGroup
from raydet.driver.advice import before_start, score_watch
from raydet.driver.first_signal import end_at_once, first_signal
from raydet.driver.from_run import from_run
from raydet.driver.own_data import own_data
from raydet.driver.plan import Plan, describe_start, make_plan
from raydet.driver.ray_session import check_scaling, ray_session
from raydet.driver.ray_trainer import Cancel, attempt
from raydet.driver.run_folder import claimed
from raydet.exceptions import ConfigError, LostWorkers, RunFailed, Stopped
from raydet.runs import checkpoint_store, stop_request
from raydet.runs.layout import CHECKPOINTS
from raydet.runs.result import read_result, write_result
from raydet.terminal import run_view
from raydet.training.precision import prepare_device
from raydet.training.resume import find_checkpoint
from raydet.training.worker import train


@dataclass(frozen=True)
class Result:
    """A finished run."""

    metrics: dict[str, float]
    """Of the best checkpoint."""
    best: Path
    """Folder of the checkpoint with the best score."""
    last: Path
    """Folder of the newest checkpoint."""
    dir: Path
    """The run's folder."""
    config: Config
    """As it was run."""


def fit(
    cfg: Config | str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    *,
    start_from: str | Path | None = None,
    out: TextIO | None = None,
    cancel: Cancel | None = None,
) -> Result:
    """Train on a data set of one's own, or as a configuration says, on this machine or a cluster; return the result.

    The same call again continues a run that was interrupted, and returns at once from one that is finished.

        raydet.fit("path/to/data", {"model.name": "efficientdet_lite0", "schedule.epochs": 20})
        raydet.fit(raydet.recipe("demo_classification"))
        raydet.fit(start_from="runs/shop", changes={"quantization.bits": 8})

    Args:
        cfg: a configuration; or the place of a data set (folder, annotation file, data.yaml, as `raydet check` takes
            them), for which one is made (`raydet.driver.own_data`).
        changes: dotted keys that are to be otherwise.
        start_from: a run's folder or a checkpoint's, whose best weights, network and (without `cfg`) data and settings
            the new run has (`raydet.driver.from_run`).
        out: where progress is shown. None: standard error.
        cancel: for another thread, to end this call; it then raises Cancelled. Not without Ray.

    Raises:
        ConfigError: a value that cannot be used, or another configuration under this run's name.
        DataError, WeightsError: found before a worker is taken, where that is possible.
        StorageFull: no room for a checkpoint. NonFiniteLoss: the loss is not finite.
        Refused: another process trains this run. RunFailed: workers failed more often than run.max_failures.
        Stopped: somebody left a file `stop` in the run's folder. KeyboardInterrupt: after Ctrl-C; a checkpoint of the
        last step is saved, unless that took longer than run.stop_grace_s.
    """
    out = out or sys.stderr
    if isinstance(cfg, Config):
        if start_from is not None:
            raise ConfigError("fit: a configuration or start_from, not both; model.weights takes a run's folder")
        cfg = override(cfg, changes or {})
    else:
        if cfg is None and start_from is None:
            raise ConfigError("fit: name a configuration, the place of a data set, or a run to start_from")
        fitted = own_data(cfg, changes or {}) if start_from is None else from_run(start_from, cfg, changes or {})
        print("\n".join(fitted.lines()), file=out, flush=True)
        cfg = fitted.cfg
    plan = make_plan(cfg)
    in_process = plan.cfg.scaling.worker_range[1] == 0
    if not in_process and not plan.finished:
        check_scaling(plan.cfg)
    notes = [] if plan.finished else before_start(plan)
    with claimed(plan):
        print("\n".join([*describe_start(plan), *notes]), file=out, flush=True)
        if plan.finished:
            print("finished  nothing left to train", file=out, flush=True)
        else:
            cancel = cancel or Cancel()
            with _stopped_in_order(plan, out, cancel):
                if in_process:
                    _here(plan, out)
                else:
                    _on_ray(plan, out, cancel)
        return _result(plan)


@contextmanager
def _stopped_in_order(plan: Plan, out: TextIO, cancel: Cancel) -> Iterator[None]:
    """Have the first Ctrl-C or SIGTERM stop the training with a checkpoint; then answer it as it was answered before.

    Raises:
        KeyboardInterrupt: it was.
    """
    received: list[int] = []
    grace = plan.cfg.run.stop_grace_s
    over = threading.Event()

    def answer(number: int) -> None:
        received.append(number)
        stop_request.request(plan.folder)
        with suppress(OSError, ValueError):
            print("stopping  with a checkpoint of the last step; once more to end at once", file=out, flush=True)
        if not over.wait(grace):
            cancel()
            end_at_once()

    stop_request.withdraw(plan.folder)
    try:
        with first_signal(answer):
            yield
    except (Stopped, LostWorkers, RunFailed):
        if not received:
            raise
    finally:
        over.set()
        stop_request.withdraw(plan.folder)
    if received:
        signal.raise_signal(received[0])  # for whoever answered it before
        raise KeyboardInterrupt


def _result(plan: Plan) -> Result:
    newest = checkpoint_store.newest(plan.folder / CHECKPOINTS)
    if newest is None:
        raise RunFailed(f"{plan.folder} holds no valid checkpoint although training has ended")
    best = find_checkpoint(plan.folder)
    metrics = {name: value for name, value in best.metrics.items() if value is not None}
    if read_result(plan.folder) is None or not plan.finished:
        write_result(plan.folder, newest.step, metrics)
    return Result(metrics, best.path, newest.path, plan.folder, plan.cfg)


def _shown(plan: Plan, out: TextIO, from_step: int) -> AbstractContextManager[None]:
    """Show the run's progress after `from_step` while the body runs."""
    epochs, notes = plan.cfg.schedule.total_epochs, score_watch(plan)
    return run_view.watched(
        lambda stop: run_view.follow(plan.folder, plan.cfg.task, epochs, stop, out, from_step, notes)
    )


def _first_step(plan: Plan) -> int:
    return 0 if plan.continues is None else plan.continues.step


def _last_step(folder: Path) -> int:
    """Return the last step that metrics.jsonl tells of; 0 where it has none."""
    known = [0]
    with suppress(OSError):
        for line in (folder / "metrics.jsonl").read_text().splitlines():
            with suppress(ValueError, KeyError, TypeError):
                known.append(int(json.loads(line)["step"]))
    return max(known)


def _here(plan: Plan, out: TextIO) -> None:
    """Train in this process: no Ray, and no restart after a failure."""
    device = prepare_device(plan.cfg)
    threads = plan.cfg.scaling.threads
    with _shown(plan, out, _first_step(plan)):
        train(plan.cfg, plan.folder, WorkerGroup(device=device), lambda metrics: None, threads=threads)


def _on_ray(plan: Plan, out: TextIO, cancel: Cancel) -> None:
    """Train in Ray Train workers, with restarts from the newest checkpoint."""
    allowed, shown, failures = plan.cfg.run.max_failures, _first_step(plan), 0
    saved = checkpoint_store.last_step(plan.folder / CHECKPOINTS)
    with ray_session(plan.cfg) as session:
        while True:
            try:
                with _shown(plan, out, shown):
                    attempt(plan, session, cancel)
                return
            except LostWorkers as lost:
                shown = max(shown, _last_step(plan.folder))  # what the next attempt repeats is not shown again
                before, saved = saved, checkpoint_store.last_step(plan.folder / CHECKPOINTS)
                failures = 1 if saved > before else failures + 1
                if failures > allowed:
                    raise RunFailed(
                        f"workers failed {failures} times without a new checkpoint, run.max_failures={allowed}; "
                        f"the last time: {lost}\n"
                        f"Ray's logs: {session.logs}\n"
                        "The same command continues from the last checkpoint"
                    ) from lost
                if stop_request.is_requested(plan.folder):
                    raise
                print(f"restart   {failures} of {allowed}, from the newest checkpoint: {lost}", file=out, flush=True)
