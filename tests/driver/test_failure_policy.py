"""What a failed attempt means: a restart, or the error to raise instead."""

import pickle
from pathlib import Path

import pytest
import torch

from raydet.driver.failure_policy import causes_of, decide
from raydet.exceptions import ConfigError, DataError, NonFiniteLoss, RunFailed, StorageFull

WORKER_LOST = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: RayTrainWorker\n\tpid: 42\n\tip: 10.0.0.7"
)


class ActorDiedError(Exception):
    """Of the name of Ray's."""


def test_a_dead_worker_is_named_and_not_its_peers_broken_connection() -> None:
    broken = RuntimeError("[gloo] Connection closed by peer")
    found = decide({"worker 0": broken, "worker 1": ActorDiedError(WORKER_LOST)})
    assert found.restart and found.reason.startswith("worker 1 (process 42 on 10.0.0.7) died")
    assert decide({"worker 0": broken}).reason == "worker 0 lost the connection to another"


@pytest.mark.parametrize(
    "error",
    [
        DataError("cut", rule="IMG-E04", file="a.jpg"),
        NonFiniteLoss("loss is nan"),
        StorageFull(Path("/run"), 10, 1),
        ConfigError("data.root: gone"),
        TypeError("a defect"),
    ],
)
def test_an_error_that_a_restart_would_meet_again_stays_itself(error: Exception) -> None:
    travelled = pickle.loads(pickle.dumps(error))
    found = decide({"worker 0": RuntimeError("Connection reset by peer"), "worker 1": travelled})
    assert not found.restart and found.error is travelled and str(found.error) == str(error)
    assert found.reason.startswith(f"worker 1 met {type(error).__name__}: ")


def test_a_defect_carries_the_workers_traceback() -> None:
    found = decide({"worker 0": KeyError("x")}, "Traceback of the worker")
    assert not found.restart and found.error.__notes__ == ["Traceback of the worker"]


def test_too_little_gpu_memory_is_no_reason_to_try_again() -> None:
    found = decide({"worker 0": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")})
    assert not found.restart and isinstance(found.error, RunFailed) and "lower data.batch_size" in str(found.error)


@pytest.mark.parametrize("error", [RuntimeError("NCCL timeout"), OSError(5, "Input/output error"), MemoryError()])
def test_what_another_attempt_may_cure_is_tried_again(error: Exception) -> None:
    assert decide({"worker 0": error}).restart


def test_causes_are_found_in_what_ray_train_raises() -> None:
    from ray.train import ControllerError, WorkerGroupError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    bad = DataError("cut", rule="IMG-E04")
    wrapped = WorkerHealthCheckFailedError("Worker 1", bad)
    group = pickle.loads(pickle.dumps(WorkerGroupError("two failed", {0: RuntimeError("x"), 1: wrapped})))
    assert str(causes_of(group)["worker 1"]) == str(bad) and isinstance(decide(causes_of(group)).error, DataError)
    assert list(causes_of(ControllerError(OSError("gone")))) == ["Ray Train's controller"]
    assert list(causes_of(RuntimeError("else"))) == ["Ray Train's controller"]
