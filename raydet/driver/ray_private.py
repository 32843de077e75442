"""The private names of Ray that raydet needs, seen in ray 2.60.0; `tests/driver/test_ray_private.py` fails if one goes.

Each says what is lost without it. Ray is imported when a function is called.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def worker_logs_hidden() -> Iterator[None]:
    """Keep Ray from printing: log_to_driver=False still lets it announce dead workers, coloured, on standard output."""
    from ray._private import worker

    name = "_worker_logs_enabled"
    before = getattr(worker, name, True)
    setattr(worker, name, False)
    try:
        yield
    finally:
        setattr(worker, name, before)


def can_grow() -> bool:
    """Whether the cluster can add nodes by itself; True where that cannot be known."""
    with suppress(ImportError, AttributeError):
        from ray._private.state import state

        return state.get_max_resources_from_cluster_config() is not None
    return True


def local_ray_died() -> bool:
    """Return whether processes of a Ray that this process started have died; False where there is none."""
    with suppress(ImportError, AttributeError):
        from ray._private import worker

        node = worker._global_node
        return node is not None and bool(node.dead_processes())
    return False


def propagate_to_train(variable: str) -> None:
    """Hand an environment variable to all processes of Ray Train."""
    try:
        from ray.train.v2._internal import constants

        constants.ENV_VARS_TO_PROPAGATE.add(variable)
    except (ImportError, AttributeError):  # without it only Train's cleaner may go astray
        logging.getLogger(__name__).warning("cannot pin %s for Ray Train; placement groups may leak", variable)


def trainer_class(watch: Callable[[Any], None]) -> Any:
    """Return Ray's TorchTrainer; `watch` is called with the actor that runs its training, before it starts.

    Ray hands the actor out in the main thread only, to a handler of Ctrl-C that would stay installed and end the
    process with code 1 and no word. Python's own raises here, and a search has its trials in another thread.
    """
    import ray
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.constants import get_env_vars_to_propagate
    from ray.train.v2._internal.execution.controller import TrainController

    class Trainer(TorchTrainer):  # type: ignore[misc]
        def _initialize_and_run_controller(self, **arguments: Any) -> Any:
            # Its actor is a process and three seconds of a core for every run, to hand out no data sets.
            arguments["callbacks"] = [c for c in arguments["callbacks"] if not isinstance(c, DatasetsCallback)]
            here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
            runtime = {"env_vars": get_env_vars_to_propagate()}
            controller: Any = ray.remote(num_cpus=0, label_selector=here, runtime_env=runtime)(TrainController)
            controller = controller.remote(**arguments)
            watch(controller)
            ray.get(controller.run.remote())
            return ray.get(controller.get_result.remote())

    return Trainer
