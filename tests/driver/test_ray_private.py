"""Ray's private names are still there, and do what raydet needs them for."""

import inspect
from types import SimpleNamespace

import pytest

from raydet.driver import ray_private


def test_ray_can_be_kept_from_announcing_dead_workers() -> None:
    from ray._private import worker

    before = worker._worker_logs_enabled
    with ray_private.worker_logs_hidden():
        assert worker._worker_logs_enabled is False
    assert worker._worker_logs_enabled is before and "_worker_logs_enabled" in inspect.getsource(worker)


def test_variables_reach_all_processes_of_ray_train(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train.v2._internal import constants

    monkeypatch.setattr(constants, "ENV_VARS_TO_PROPAGATE", set(constants.ENV_VARS_TO_PROPAGATE))
    monkeypatch.setenv("RAYDET_TEST", "x")
    ray_private.propagate_to_train("RAYDET_TEST")
    assert constants.get_env_vars_to_propagate()["RAYDET_TEST"] == "x"


def test_the_trainers_controller_can_be_replaced() -> None:
    from ray.train.torch import TorchTrainer

    made = ray_private.trainer_class(lambda controller: None)
    assert issubclass(made, TorchTrainer)
    assert "self._initialize_and_run_controller(" in inspect.getsource(TorchTrainer.__mro__[1])


@pytest.mark.soak
def test_no_actor_is_started_to_hand_out_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train makes one for each run, whether it has any or not."""
    import ray
    from ray.train.torch import TorchTrainer

    class Actor:
        def __init__(self, callbacks: list[object], **_: object) -> None:
            handed.extend(type(one).__name__ for one in callbacks)
            raise InterruptedError

    handed: list[str] = []
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=str))
    monkeypatch.setattr(ray, "remote", lambda **_: lambda _: SimpleNamespace(remote=Actor))
    trainer = ray_private.trainer_class(lambda controller: None)(lambda: None)
    with pytest.raises(InterruptedError):
        trainer.fit()
    theirs = [type(one).__name__ for one in TorchTrainer(lambda: None)._create_default_callbacks()]
    assert "DatasetsCallback" in theirs and handed == [name for name in theirs if name != "DatasetsCallback"]


def test_whether_a_cluster_grows_is_asked_of_its_state() -> None:
    from ray._private.state import state

    assert callable(state.get_max_resources_from_cluster_config)


def test_a_dead_local_ray_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray._private import worker

    assert hasattr(worker, "_global_node") and hasattr(ray._private.node.Node, "dead_processes")
    assert ray_private.local_ray_died() is False
    monkeypatch.setattr(worker, "_global_node", type("Node", (), {"dead_processes": lambda self: ["raylet"]})())
    assert ray_private.local_ray_died() is True
