"""A run's folder, held by the one process that trains it, and what says whose it is: config.json, env.json."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from raydet.config import Config, differences, load, to_dict
from raydet.driver.plan import Plan
from raydet.exceptions import ConfigError
from raydet.io.files import replace_file
from raydet.runs.environment import environment
from raydet.runs.lock import held


@contextmanager
def claimed(plan: Plan) -> Iterator[None]:
    """Hold the run's folder for this process; it is made, with config.json and env.json, if it is new.

    Where the body fails before anything was trained, nothing of a new folder is left.

    Raises:
        Refused: another process is at this run, or another thread of this one. ConfigError: the folder cannot be made.
    """
    folder = plan.folder
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with held(folder):
        try:
            _write_identity(plan)
            yield
        except BaseException:
            _take_back(made)
            raise


def _take_back(made: list[Path]) -> None:
    """Remove the folders in `made`, from the inside out, unless there is more in the first than an unused run has."""
    unused = {".lock", "config.json", "env.json", "ray", "plots", "classes.json"}
    if made and {path.name for path in made[0].iterdir()} <= unused:
        shutil.rmtree(made[0], ignore_errors=True)
        with suppress(OSError):  # another run lies there by now
            for path in made[1:]:
                path.rmdir()


def _write_identity(plan: Plan) -> None:
    if plan.finished:
        return
    path = plan.folder / "config.json"
    if not _holds(path, plan.cfg):
        replace_file(path, json.dumps(to_dict(plan.cfg), indent=2) + "\n")
    replace_file(plan.folder / "env.json", json.dumps(environment(), indent=2) + "\n")


def _holds(path: Path, cfg: Config) -> bool:
    """Whether a configuration lies there already; not one that cannot be read, which the plan has replaced."""
    try:
        return path.exists() and not differences(load(path), cfg)
    except ConfigError:
        return False
