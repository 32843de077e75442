"""The folder of a local Ray, and those that killed processes left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raydet.driver import ray_temp_dir


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Path:
    import tempfile

    short = Path(tempfile.mkdtemp(prefix="rf", dir="/tmp"))
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    return short


def left_by_a_dead_process(base: Path) -> Path:
    code = "from raydet.driver import ray_temp_dir; print(ray_temp_dir.make())"
    env = {**os.environ, "RAY_TMPDIR": str(base)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    return Path(done.stdout.strip())


def test_a_killed_process_s_folder_goes_with_the_next_start(base: Path) -> None:
    old = left_by_a_dead_process(base)
    assert old.is_dir()
    mine = ray_temp_dir.make()
    assert not old.exists() and Path(mine).parent == base


def test_the_folders_of_processes_that_run_stay(base: Path) -> None:
    first, second = ray_temp_dir.make(), ray_temp_dir.make()
    assert Path(first).is_dir() and Path(second).is_dir()


def test_another_process_of_the_same_number_is_not_the_owner(base: Path) -> None:
    mine = Path(ray_temp_dir.make())
    (mine / "owner").write_text(f"{os.getpid()} 1")
    ray_temp_dir.make()
    assert not mine.exists()


def test_logs_that_are_needed_stay(base: Path) -> None:
    old = left_by_a_dead_process(base)
    ray_temp_dir.disown(str(old))
    ray_temp_dir.make()
    assert old.is_dir()


def test_a_folder_that_is_none_of_ours_stays(base: Path) -> None:
    (base / "raydet-kernels-0").mkdir()
    (base / "raydet-odd").mkdir()
    (base / "raydet-odd" / "owner").write_text("what")
    ray_temp_dir.make()
    assert (base / "raydet-kernels-0").is_dir() and (base / "raydet-odd").is_dir()
