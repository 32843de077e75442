"""The folder of a local Ray, and those that killed processes left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raydet import ray_folder


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Path:
    import tempfile

    short = Path(tempfile.mkdtemp(prefix="rf", dir="/tmp"))
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    return short


def left_by_a_dead_process(base: Path) -> Path:
    code = "from raydet import ray_folder; print(ray_folder.make())"
    env = {**os.environ, "RAY_TMPDIR": str(base)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    return Path(done.stdout.strip())


def test_a_killed_process_s_folder_goes_with_the_next_start(base: Path) -> None:
    old = left_by_a_dead_process(base)
    assert old.is_dir()
    mine = ray_folder.make()
    assert not old.exists() and Path(mine).parent == base


def test_the_folders_of_processes_that_run_stay(base: Path) -> None:
    first, second = ray_folder.make(), ray_folder.make()
    assert Path(first).is_dir() and Path(second).is_dir()


def test_another_process_of_the_same_number_is_not_the_owner(base: Path) -> None:
    mine = Path(ray_folder.make())
    (mine / "owner").write_text(f"{os.getpid()} 1")
    ray_folder.make()
    assert not mine.exists()


def test_logs_that_are_needed_stay(base: Path) -> None:
    old = left_by_a_dead_process(base)
    ray_folder.disown(str(old))
    ray_folder.make()
    assert old.is_dir()


def test_a_folder_that_is_none_of_ours_stays(base: Path) -> None:
    (base / "raydet-kernels-0").mkdir()
    (base / "raydet-odd").mkdir()
    (base / "raydet-odd" / "owner").write_text("what")
    ray_folder.make()
    assert (base / "raydet-kernels-0").is_dir() and (base / "raydet-odd").is_dir()
