"""One attempt at training on Ray Train: its workers, its controller, and how both end."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from raydet.config import Config, from_dict, to_dict
from raydet.distributed import WorkerGroup
from raydet.driver.failure_policy import causes_of, decide, describe
from raydet.driver.plan import Plan
from raydet.driver.ray_private import trainer_class
from raydet.driver.ray_session import Session
from raydet.exceptions import Cancelled, ConfigError, LostWorkers
from raydet.io.files import replace_file
from raydet.training.worker import train

TrainFunction = Callable[[Config, Path, WorkerGroup, Callable[[dict[str, float]], None], int | None], None]
"""What a worker does: `worker.train`, or another with its arguments."""


_ABORT_S = 20
"""How long Ray Train's controller may take to end its workers before it is killed."""


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


def attempt(plan: Plan, session: Session, cancel: Cancel, work: TrainFunction = train) -> None:
    """Run `work` on the plan's Ray Train workers, once and to its end.

    Raises:
        LostWorkers: a restart may help. Others: it would not.
    """
    import ray.train
    from ray.train.torch import TorchConfig

    cfg = plan.cfg
    ray_folder = plan.folder / "ray"
    number = 1 + len(list(ray_folder.glob("attempt_*")))
    trainer = trainer_class(cancel.watch)(
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
            decision = decide(causes_of(error), str(error))
            raise (LostWorkers(decision.reason) if decision.restart else decision.error) from error
        if isinstance(error, ray.exceptions.RayError):  # the controller itself is gone
            raise LostWorkers(describe("Ray Train's controller", error)) from error
        raise


def _work(work: TrainFunction, payload: Mapping[str, Any]) -> None:
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
    workers = WorkerGroup(context.get_world_rank(), context.get_world_size(), get_device())
    if workers.rank == 0:
        _note_group(folder / "ray" / f"workers_{context.get_experiment_name()}.group")
    cpus = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))
    work(cfg, folder, workers, ray.train.report, cfg.scaling.threads or max(1, cpus - cfg.data.workers))


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
