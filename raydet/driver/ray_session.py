"""The Ray that a run uses: a local one for as long as it lasts, or a cluster to join. Ray 2.60 is worked around here.

A local Ray keeps its files in a folder of its own, away from other Rays of this machine, and leaves nothing behind: no
process, no signal handler, no environment variable. Only when workers were lost are its logs kept.
"""

import atexit
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raydet.config import Config
from raydet.driver import ray_temp_dir
from raydet.driver.ray_private import can_grow, propagate_to_train, worker_logs_hidden
from raydet.driver.resources import check_machine, check_room, cores, per_worker, wanted_address
from raydet.exceptions import ConfigError, RunFailed

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else each line of a worker comes twice
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon an end or a death is seen; Ray's default is 2
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # prints a harmless error in every run
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's next default; saves a warning
    "RAY_worker_niceness": "0",  # Ray's default of 15 makes workers lose every fight for a core
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # raydet writes all there is to write
    "RAY_AIR_NEW_OUTPUT": "0",  # else Ray Tune prints a table of its settings
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is answered by raydet
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails has no score
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads make a busy machine several times slower
}
_OBJECT_STORE_BYTES = 200 * 2**20
"""No data travels through Ray's object store. Its own choice, 30 % of memory, is more than a container's /dev/shm."""
CHECKOUT = Path(__file__).resolve().parents[2]
"""Where the package `raydet` is found."""


@dataclass(frozen=True)
class Session:
    """A Ray that is there."""

    per_worker: Mapping[str, float]
    """Resources to reserve for each worker."""
    logs: str
    """Where Ray's logs lie."""


@contextmanager
def ray_session(cfg: Config) -> Iterator[Session]:
    """Join the cluster, or start a local Ray for as long as the body runs.

    Raises:
        ConfigError: no such cluster, or too few CPUs or GPUs. RunFailed: no Ray can be started here.
    """
    with _restored():
        given = wanted_address(cfg)
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        # How long Ray waits for its workers before it starts again. An elastic run that has lost a machine first asks
        # for as many as before; any other may be on a busy machine, where Ray's 60 seconds have been too few.
        elastic = cfg.scaling.worker_range[0] < cfg.scaling.worker_range[1]
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20" if elastic else "180")
        import ray

        if ray.is_initialized():  # the caller's, who also ends it
            yield _session(cfg, logs="those of the Ray that was initialised before")
        else:
            with worker_logs_hidden(), _started(cfg) if given is None else _joined(cfg, given) as session:
                yield session


def check_scaling(cfg: Config) -> None:
    """Raise ConfigError for what can be known of the machines before Ray is there."""
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return
    address = wanted_address(cfg)
    if address is None:
        check_machine(cfg)
    else:
        _check_address(_address_name(cfg), address)


def _address_name(cfg: Config) -> str:
    return "scaling.address" if cfg.scaling.address else "RAY_ADDRESS"


@contextmanager
def _restored() -> Iterator[None]:
    """Leave the environment as it was: Ray and what is done for it change it."""

    def ours() -> dict[str, str]:
        names = ("PYTHONPATH", "PYTHONBREAKPOINT", *_ENVIRONMENT)
        return {k: v for k, v in os.environ.items() if k.startswith("RAY_") or k in names}

    before = ours()
    try:
        yield
    finally:
        for name in ours():
            os.environ.pop(name)
        os.environ.update(before)


def _init(**arguments: Any) -> Any:
    """Call ray.init without its messages, and without its handler of SIGTERM, which dumps core."""
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    context = ray.init(**arguments, log_to_driver=False, logging_level=logging.ERROR)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
    return context


@contextmanager
def _started(cfg: Config) -> Iterator[Session]:
    """A local Ray, all of whose processes have ended afterwards."""
    import ray

    _give_token()
    # Workers must find a bare checkout whatever their working directory is; they inherit this.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*_import_path(), os.environ.get("PYTHONPATH")]))
    folder = ray_temp_dir.make()
    remove, keep = partial(shutil.rmtree, folder, ignore_errors=True), False
    atexit.register(remove)  # also where a second signal breaks off the end of this function
    try:
        context = _init_local(cfg, folder)
        yield _session(cfg, logs=f"{context.address_info['session_dir']}/logs", own=True)
    except RunFailed:
        keep = True  # its logs are needed
        raise
    finally:
        if keep:
            atexit.unregister(remove)
            ray_temp_dir.disown(folder)
        ray.shutdown(wait_for_processes=True)
        if not keep:
            remove()
            atexit.unregister(remove)


def _init_local(cfg: Config, folder: str) -> Any:
    import ray

    # Ray's CPUs are accounts, not cores: a small machine may promise more than it has.
    cpus = max(cores(), cfg.scaling.worker_range[1] * (cfg.scaling.cpus_per_worker or 1))
    # A dashboard is nine processes more, and ends with the run.
    wanted: dict[str, Any] = {"num_cpus": cpus, "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    for attempt in (1, 2):
        try:
            return _init(address="local", _temp_dir=folder, **wanted)
        except Exception as error:  # Ray raises Exception itself where a busy machine lets its own time limits pass
            ray.shutdown()
            if attempt == 2 or isinstance(error, (ValueError, TypeError)):
                raise RunFailed(
                    f"cannot start Ray on this machine: {_first_line(error)} Ray's logs: {folder}"
                ) from error
    raise AssertionError("unreachable")


def _import_path() -> list[str]:
    """What workers must have on their path to import raydet; nothing where it is installed."""
    return [str(CHECKOUT)] if (CHECKOUT / "setup.cfg").is_file() else []


@contextmanager
def _joined(cfg: Config, address: str) -> Iterator[Session]:
    import ray

    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")  # else the dashboard's Train tab stays empty
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # its runtime environment already brings the code
    variables = {} if in_job else {"PYTHONPATH": os.pathsep.join(_import_path())}
    runtime = {"runtime_env": {"env_vars": variables}} if variables.get("PYTHONPATH") else {}
    try:
        context = _init(address=address, **runtime)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        name = _address_name(cfg)
        raise ConfigError(
            f"{name}: cannot join the Ray cluster at {address}: {_first_line(error)}{_token_hint(error)}"
        ) from error
    try:
        yield _session(cfg, logs=f"`ray logs`, or {context.address_info['session_dir']}/logs on each node")
    finally:
        ray.shutdown()


def _token_hint(error: BaseException) -> str:
    refused = "AuthToken" in f"{error} {error.__cause__}"
    return "\nIt asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or ~/.ray/auth_token" if refused else ""


def _check_address(name: str, address: str) -> None:
    """Raise ConfigError where nothing listens: Ray would try for a minute and end the process."""
    if address.startswith("ray://"):
        raise ConfigError(
            f"{name}={address}: Ray Client cannot run Ray Train. Use `ray job submit -- python -m raydet fit ...`, "
            "or on one of the cluster's machines its own address, host:6379 as a rule"
        )
    host, colon, port = address.rpartition(":")
    if not colon:
        return  # auto
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=10):
            return
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name}: no Ray cluster answers at {address}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _give_token() -> None:
    """Make sure of a token that only its user can read: ray.init switches authentication on for a local cluster.

    Ray 2.60 would write ~/.ray/auth_token itself, with mode 0644.
    """
    if {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        return
    path = Path.home() / ".ray" / "auth_token"
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except OSError:  # a home that cannot be written: the token lives as long as this run
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _session(cfg: Config, logs: str, own: bool = False) -> Session:
    import ray

    _pin_address()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wanted = per_worker(cfg, nodes, own)
    if not can_grow():
        check_room(cfg, nodes, wanted)
    return Session(wanted, logs)


def _pin_address() -> None:
    """Name the cluster to all processes of Train: its cleaner guesses, and with two Rays on a machine wrongly."""
    import ray

    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    propagate_to_train("RAY_ADDRESS")
