"""The verb `raydet.fit`: Ray Train workers run `worker.train`, on a local Ray or a cluster; failures are answered here.

Ray keeps nothing that matters: a run lives in its folder, and each attempt is a fresh Ray run that takes up the newest
valid checkpoint there. Restarts are decided here and not by Ray, which would repeat a full disk or bad data just as it
repeats a lost machine. What is known of Ray 2.60 and worked around stands where it is done.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from raydet import checkpoints, console
from raydet.claim import claimed
from raydet.config import Config, ConfigError, from_dict, to_dict
from raydet.failures import LostWorkers, RunFailed, causes_of, describe, verdict
from raydet.peers import Peers
from raydet.plan import Plan, describe_start, make_plan, read_result, write_result
from raydet.precision import prepare_device
from raydet.ray_session import Session, check_scaling, ray_session
from raydet.restore import CHECKPOINTS, find_checkpoint
from raydet.sinks import replace_file
from raydet.worker import train

Work = Callable[[Config, Path, Peers, Callable[[dict[str, float]], None], int | None], None]
"""What a worker does: `worker.train`, or another with its arguments."""

_ABORT_S = 20
"""How long Ray Train's controller may take to end its workers before it is killed."""


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


class Cancelled(RuntimeError):
    """A `fit` that was ended by its Cancel."""


class Cancel:
    """Ends a `fit` under Ray from another thread; the run is left as by Ctrl-C, and the same call continues it."""

    def __init__(self) -> None:
        self.called = False
        self.controller: Any = None

    def __call__(self) -> None:
        """End it now, and give back its machines."""
        self.called = True
        _end(self.controller)

    def watch(self, controller: Any) -> None:
        """Take note of the Ray actor that runs the training."""
        self.controller = controller
        if self.called:
            _end(controller)


def _end(controller: Any) -> None:
    """End Ray Train's controller with its workers and their placement group, which killing it would leave behind."""
    import ray

    if controller is None:
        return
    try:
        ray.get(controller.abort.remote(), timeout=_ABORT_S)
    except (ray.exceptions.RayActorError, ray.exceptions.TaskCancelledError):
        return  # that is how it ends
    except Exception:  # busy, e.g. waiting for room
        ray.kill(controller)


def fit(cfg: Config, *, out: TextIO | None = None, cancel: Cancel | None = None) -> Result:
    """Train as `cfg` says, on this machine or a cluster, and return the result.

    The same call again continues a run that was interrupted, and returns at once from one that is finished.

    Args:
        out: where progress is shown. None: standard error.
        cancel: for another thread, to end this call; it then raises Cancelled. Not without Ray.

    Raises:
        ConfigError: a value that cannot be used, or another configuration under this run's name.
        DataError, WeightsError: found before a worker is taken, where that is possible.
        StorageFull: no room for a checkpoint. FloatingPointError: the loss is not finite.
        Refused: another process trains this run. RunFailed: workers failed more often than run.max_failures.
    """
    out = out or sys.stderr
    plan = make_plan(cfg)
    in_process = plan.cfg.scaling.worker_range[1] == 0
    if not in_process and not plan.finished:
        check_scaling(plan.cfg)
    with claimed(plan):
        print("\n".join(describe_start(plan)), file=out, flush=True)
        if plan.finished:
            print("finished  nothing left to train", file=out, flush=True)
        elif in_process:
            _here(plan, out)
        else:
            _on_ray(plan, out, cancel or Cancel())
        return _result(plan)


def _result(plan: Plan) -> Result:
    newest = checkpoints.newest(plan.folder / CHECKPOINTS)
    if newest is None:
        raise RunFailed(f"{plan.folder} holds no valid checkpoint although training has ended")
    best = find_checkpoint(plan.folder)
    metrics = {name: value for name, value in best.metrics.items() if value is not None}
    if read_result(plan.folder) is None or not plan.finished:
        write_result(plan.folder, newest.step, metrics)
    return Result(metrics, best.path, newest.path, plan.folder, plan.cfg)


def _shown(plan: Plan, out: TextIO, from_step: int) -> AbstractContextManager[None]:
    """Show the run's progress after `from_step` while the body runs."""
    epochs = plan.cfg.schedule.total_epochs
    return console.watched(lambda stop: console.follow(plan.folder, plan.cfg.task, epochs, stop, out, from_step))


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
        train(plan.cfg, plan.folder, Peers(device=device), lambda metrics: None, threads=threads)


def _on_ray(plan: Plan, out: TextIO, cancel: Cancel) -> None:
    """Train in Ray Train workers, with restarts from the newest checkpoint."""
    allowed, shown = plan.cfg.run.max_failures, _first_step(plan)
    with ray_session(plan.cfg) as session:
        for failures in range(1, allowed + 2):
            try:
                with _shown(plan, out, shown):
                    attempt(plan, session, cancel)
                return
            except LostWorkers as lost:
                shown = max(shown, _last_step(plan.folder))  # what the next attempt repeats is not shown again
                if failures > allowed:
                    raise RunFailed(
                        f"workers failed {failures} times, run.max_failures={allowed}; the last time: {lost}\n"
                        f"Ray's logs: {session.logs}\n"
                        "The same command continues from the last checkpoint"
                    ) from lost
                print(f"restart   {failures} of {allowed}, from the newest checkpoint: {lost}", file=out, flush=True)


def attempt(plan: Plan, session: Session, cancel: Cancel, work: Work = train) -> None:
    """Run `work` on the plan's Ray Train workers, once and to its end.

    Raises:
        LostWorkers: a restart may help. Others: it would not.
    """
    import ray.train
    from ray.train.torch import TorchConfig

    cfg = plan.cfg
    ray_folder = plan.folder / "ray"
    number = 1 + len(list(ray_folder.glob("attempt_*")))
    trainer = _trainer_class(cancel)(
        partial(_work, work),
        train_loop_config={"config": to_dict(cfg), "folder": str(plan.folder)},
        torch_config=TorchConfig(timeout_s=int(cfg.scaling.timeout_s)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=cfg.scaling.num_workers,
            use_gpu=cfg.scaling.use_gpu,
            resources_per_worker=dict(session.per_worker),
        ),
        run_config=ray.train.RunConfig(
            name=f"attempt_{number:03d}",
            storage_path=str(ray_folder),
            failure_config=ray.train.FailureConfig(max_failures=0),
            logging_config=ray.train.LoggingConfig("ERROR"),
        ),
    )
    try:
        trainer.fit()
    except BaseException as error:
        _end(cancel.controller)  # Ctrl-C: a Ray that outlives this call must not train on
        if cancel.called:
            raise Cancelled(f"{plan.folder} was cancelled") from error
        if isinstance(error, ray.train.TrainingFailedError):
            raise verdict(causes_of(error), str(error)) from error
        if isinstance(error, ray.exceptions.RayError):  # the controller itself is gone
            raise LostWorkers(describe("Ray Train's controller", error)) from error
        raise


def _trainer_class(cancel: Cancel) -> Any:
    """Return Ray's trainer, whose controller `cancel` gets to know.

    Ray 2.60 hands it out in the main thread only, to a handler of Ctrl-C that would stay installed and end the process
    with code 1 and no word. Python's own raises here, and a search has its trials in another thread.
    """
    import ray
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.constants import get_env_vars_to_propagate
    from ray.train.v2._internal.execution.controller import TrainController

    class Trainer(TorchTrainer):  # type: ignore[misc]
        def _initialize_and_run_controller(self, **arguments: Any) -> Any:
            here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
            runtime = {"env_vars": get_env_vars_to_propagate()}
            actor: Any = ray.remote(num_cpus=0, label_selector=here, runtime_env=runtime)(TrainController)
            cancel.watch(actor.remote(**arguments))
            ray.get(cancel.controller.run.remote())
            return ray.get(cancel.controller.get_result.remote())

    return Trainer


def _work(work: Work, payload: Mapping[str, Any]) -> None:
    """What Ray Train calls in each worker."""
    import ray
    import ray.train
    from ray.train.torch import get_device

    cfg, context = from_dict(payload["config"]), ray.train.get_context()
    folder = Path(payload["folder"])
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"run.storage_path={cfg.run.storage_path}: on {os.uname().nodename} this is another folder than where the "
            "run was started; name one on a file system that all machines share"
        )
    peers = Peers(context.get_world_rank(), context.get_world_size(), get_device())
    if peers.rank == 0:
        _note_group(folder / "ray" / f"workers_{context.get_experiment_name()}.group")
    cpus = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))
    work(cfg, folder, peers, ray.train.report, cfg.scaling.threads or max(1, cpus - cfg.data.workers))


def _note_group(path: Path) -> None:
    """Write down the placement group of the workers, for whoever finds it left behind."""
    import ray

    group = ray.util.get_current_placement_group()
    if group is not None:
        with suppress(OSError):
            replace_file(path, group.id.hex())


def release(folder: Path) -> None:
    """Give back the machines that a killed process's workers of the run in `folder` still hold.

    Ray removes such a placement group when the job ends; where there is no dashboard, not before (ray 2.60).
    """
    import ray
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    for path in (folder / "ray").glob("*.group"):
        group = PlacementGroup(ray.PlacementGroupID.from_hex(path.read_text()))
        with suppress(ray.exceptions.RayError, ValueError):
            if placement_group_table(group).get("state") not in (None, "REMOVED"):
                remove_placement_group(group)
        path.unlink(missing_ok=True)
