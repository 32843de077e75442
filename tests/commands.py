"""Commands of raydet as processes of their own, and the processes that Ray starts below them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest
import ray.thirdparty_files.psutil as psutil  # not on the path of itself

from raydet.config import Config, differences
from raydet.distributed import WorkerGroup
from raydet.driver.plan import make_plan
from raydet.driver.run_folder import claimed
from raydet.recipes import recipe
from raydet.training import worker

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 300
"""For what takes seconds on a quiet machine."""
Found = TypeVar("Found")


def begun(cfg: Config, epochs: int = 1) -> Path:
    """Train so many epochs of the run in this process and leave it as a killed driver would; return its folder."""
    plan = make_plan(cfg)
    told: list[dict[str, float]] = []

    def tell(metrics: dict[str, float]) -> None:
        told.append(metrics)
        if len(told) == epochs:
            raise InterruptedError

    with pytest.raises(InterruptedError), claimed(plan):
        worker.train(plan.cfg, plan.folder, WorkerGroup(), tell)
    return plan.folder


def words(cfg: Config) -> list[str]:
    """Return the words after `fit` that mean `cfg`."""
    changed = differences(recipe(str(cfg.recipe)), cfg)
    return [str(cfg.recipe), *(word for key, (_, now) in changed.items() for word in (f"--{key}", *_spelt(now)))]


def _spelt(value: object) -> list[str]:
    return [str(v) for v in value] if isinstance(value, tuple) else [str(value)]


def environment(**extra: str) -> dict[str, str]:
    """Return this process's environment with the checkout on the path, one thread, no cluster to join, and `extra`."""
    ours = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return ours | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | extra


def raydet(*arguments: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python -m raydet` to its end."""
    command = [sys.executable, "-m", "raydet", *arguments]
    variables = dict(env or environment())
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=LIMIT_S)


def _hears_ctrl_c() -> None:
    """Undo what a shell does to commands in the background (CI may be one): they do not hear Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def running(
    arguments: Sequence[str], folder: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run `python -m raydet` in `folder` while the body runs; its output goes to files there. Then it is killed."""
    command = [sys.executable, "-m", "raydet", *arguments]
    short = tempfile.mkdtemp(prefix="rd", dir="/tmp")  # a socket's path may have 107 characters
    variables = {"RAY_TMPDIR": short, **(env or environment())}
    with (folder / "stderr.txt").open("a") as err, (folder / "stdout.txt").open("a") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=variables, stdout=out, stderr=err, text=True, preexec_fn=_hears_ctrl_c
        )
    try:
        yield process
    finally:
        left = descendants(process.pid)
        process.kill()
        process.wait(LIMIT_S)
        for child in left:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        shutil.rmtree(short, ignore_errors=True)


def logged_steps(folder: Path) -> list[list[int]]:
    """Return what log.json names of each training step, epoch and step from 0; none while there is no file."""
    try:
        lines = (folder / "log.json").read_text().splitlines()
    except OSError:
        return []
    steps = [json.loads(line[5:])["step"] for line in lines if line.endswith("}") and '"type": "LOG"' in line]
    return [step for step in steps if isinstance(step, list) and len(step) > 1]


def descendants(pid: int) -> list[psutil.Process]:
    """Return all processes below `pid`."""
    with suppress(psutil.NoSuchProcess):
        return list(psutil.Process(pid).children(recursive=True))
    return []


def training_workers(pid: int) -> list[psutil.Process]:
    """Return the Ray Train workers below `pid`."""
    found = []
    for process in descendants(pid):
        with suppress(psutil.NoSuchProcess):
            if "RayTrainW" in " ".join(process.cmdline()):
                found.append(process)
    return found


def alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Return those that still run; a dead one that nobody has asked after does not."""
    left = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
    return left


def until(condition: Callable[[], Found], what: str) -> Found:
    """Return what `condition` gives as soon as it is true.

    Raises:
        TimeoutError: it never was.
    """
    pause = threading.Event()
    for _ in range(50 * LIMIT_S):
        found = condition()
        if found:
            return found
        pause.wait(0.02)
    raise TimeoutError(f"waited {LIMIT_S} s for {what}")


def kill(*pids: int) -> None:
    """End processes as the kernel does in need of memory."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
