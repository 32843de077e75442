"""A run's checkpoints: order, pruning, crashes, a full disk (docs/faults.md F03-F06, F16, F19)."""

import errno
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet.exceptions import StorageFull
from raydet.runs import checkpoint_store

TENSORS = {"model": {"w": torch.arange(12.0).reshape(3, 4), "n": torch.tensor(7)}, "ema": {"w": torch.ones(2)}}


STATE = {"epoch": 3, "sampler": [1, 2], "name": "né"}


def save(folder: Path, step: int, value: float = 0.5, **more: Any) -> Path:
    return checkpoint_store.save(folder, step, TENSORS, STATE | {"at": step}, {"map": value}, **more)


def break_it(path: Path, file: str = "model.safetensors") -> None:
    data = bytearray((path / file).read_bytes())
    data[-1] ^= 1
    (path / file).write_bytes(data)


def test_a_metric_that_is_not_finite_comes_back_as_nan_and_is_never_best(tmp_path: Path) -> None:
    save(tmp_path, 1, float("nan"))
    assert checkpoint_store.best(tmp_path, "map", "max") is None
    save(tmp_path, 2, 0.1)
    found = checkpoint_store.best(tmp_path, "map", "max")
    assert found is not None and found.step == 2
    assert (
        checkpoint_store.read(tmp_path / "step_00000001").metrics["map"]
        != checkpoint_store.read(tmp_path / "step_00000001").metrics["map"]
    )


def test_newest_falls_back_to_an_older_one_and_names_both(tmp_path: Path) -> None:
    good, bad = save(tmp_path, 10), save(tmp_path, 20)
    break_it(bad)
    with pytest.warns(RuntimeWarning, match=r"step_00000020.model\.safetensors.*step_00000010 is used instead"):
        found = checkpoint_store.newest(tmp_path)
    assert found is not None and found.path == good


def test_newest_of_nothing_is_none(tmp_path: Path) -> None:
    assert checkpoint_store.newest(tmp_path / "missing") is None
    (tmp_path / ".tmp-0123").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    assert checkpoint_store.newest(tmp_path) is None


def test_newest_warns_when_no_good_checkpoint_is_left(tmp_path: Path) -> None:
    break_it(save(tmp_path, 1))
    with pytest.warns(RuntimeWarning, match="no good one is left"):
        assert checkpoint_store.newest(tmp_path) is None


def test_order_is_by_step_and_not_by_file_time(tmp_path: Path) -> None:
    later, earlier = save(tmp_path, 100_000_000), save(tmp_path, 99_999_999)
    os.utime(later, (0, 0))
    os.utime(earlier, (2e9, 2e9))
    found = checkpoint_store.newest(tmp_path)
    assert found is not None and found.step == 100_000_000


def test_best_goes_by_mode_and_takes_the_earliest_of_equals(tmp_path: Path) -> None:
    for step, value in ((1, 0.2), (2, 0.9), (3, 0.9), (4, 0.1)):
        save(tmp_path, step, value)
    found = {mode: checkpoint_store.best(tmp_path, "map", mode) for mode in ("max", "min")}
    assert {mode: c and c.step for mode, c in found.items()} == {"max": 2, "min": 4}
    assert checkpoint_store.best(tmp_path, "loss", "min") is None


def test_best_skips_a_damaged_one_with_a_warning(tmp_path: Path) -> None:
    save(tmp_path, 1, 0.2)
    break_it(save(tmp_path, 2, 0.9))
    with pytest.warns(RuntimeWarning, match="step_00000002"):
        found = checkpoint_store.best(tmp_path, "map", "max")
    assert found is not None and found.step == 1


def steps(folder: Path) -> list[int]:
    return sorted(int(p.name.removeprefix("step_")) for p in folder.glob("step_*"))


def test_prune_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    paths = [save(tmp_path, step) for step in range(1, 7)]
    removed = checkpoint_store.prune(tmp_path, 2, best=paths[1])
    assert steps(tmp_path) == [2, 5, 6]
    assert {p.name for p in removed} == {paths[i].name for i in (0, 2, 3)}
    assert {p.name for p in tmp_path.iterdir()} == {f"step_{s:08d}" for s in (2, 5, 6)}


def test_prune_never_removes_the_last_good_one(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    break_it(tmp_path / "step_00000003")
    with pytest.warns(RuntimeWarning):
        checkpoint_store.prune(tmp_path, 1, best=None)
    assert steps(tmp_path) == [2, 3]
    break_it(tmp_path / "step_00000002")
    with pytest.warns(RuntimeWarning):
        assert checkpoint_store.prune(tmp_path, 1, best=None) == []
    assert steps(tmp_path) == [2, 3]


def in_child(action: Callable[[], None]) -> int:
    """Run `action` in a forked child and return its exit code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


CALLS = ("mkdir", "open", "write", "fsync", "close", "rename")


def die_at_call(number: int) -> Callable[[], None]:
    """Patch os so that the process ends, as by SIGKILL, just before its `number`-th file call."""
    count = 0

    def patched(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                os._exit(7)
            return real(*args, **kwargs)

        return call

    def install() -> None:
        for name in CALLS:
            setattr(os, name, patched(getattr(os, name)))

    return install


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 1], ids=["a new step", "the same step again"])
def test_a_crash_at_any_point_of_save_leaves_a_whole_checkpoint(tmp_path: Path, step: int) -> None:
    crashes = 0
    for number in range(1, 100):
        folder = tmp_path / str(number)
        save(folder, 1, 0.1)
        install = die_at_call(number)

        def crash(install: Callable[[], None] = install, folder: Path = folder) -> None:
            install()
            save(folder, step, 0.2)
            os._exit(0)

        code = in_child(crash)
        found = checkpoint_store.newest(folder)  # a damaged one would warn, and warnings are errors here
        assert found is not None and found.metrics["map"] in (0.1, 0.2)
        assert found.state()["at"] == found.step
        checkpoint_store.sweep(folder)
        assert all(p.name.startswith("step_") for p in folder.iterdir())
        after = checkpoint_store.newest(folder)
        assert after is not None and (after.step, after.metrics) == (found.step, found.metrics)
        if code == 0:
            assert found.metrics["map"] == 0.2
            break
        assert code == 7
        crashes += 1
    assert crashes >= 20


def test_sweep_removes_leftovers_and_nothing_else(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (tmp_path / ".tmp-a").mkdir()
    (tmp_path / ".tmp-a" / "model.safetensors").write_text("half")
    (tmp_path / ".tmp-b").write_text("x")
    (tmp_path / "notes.txt").write_text("x")
    checkpoint_store.sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, "notes.txt"}
    assert checkpoint_store.sweep(tmp_path / "missing") == []


def test_sweep_keeps_what_stepped_aside_while_its_successor_is_damaged(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    shutil.copytree(path, tmp_path / f".old-{path.name}-{'0' * 32}")
    break_it(path)
    checkpoint_store.sweep(tmp_path)
    with pytest.warns(RuntimeWarning):
        found = checkpoint_store.newest(tmp_path)
    assert found is not None and found.path.name.startswith(".old-")


class Disk:
    """os.write on a disk that holds so many more bytes; what is removed makes room again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int, regain: int = 0, number: int = errno.ENOSPC) -> None:
        self.room, self.removals = room, 0
        write, rmtree = os.write, shutil.rmtree

        def limited(handle: int, data: memoryview) -> int:
            if self.room <= 0:
                raise OSError(number, os.strerror(number))
            wrote = write(handle, data[: self.room])
            self.room -= wrote
            return wrote

        def counted(path: Path, ignore_errors: bool = False) -> None:
            is_checkpoint = (Path(path) / "MANIFEST.json").exists()
            rmtree(path, ignore_errors=ignore_errors)
            if is_checkpoint:
                self.room += regain
                self.removals += 1

        monkeypatch.setattr(os, "write", limited)
        monkeypatch.setattr(shutil, "rmtree", counted)


@pytest.mark.parametrize("share", [i / 20 for i in range(20)])
def test_a_disk_full_at_any_byte_leaves_the_previous_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    size = sum(p.stat().st_size for p in save(tmp_path, 1).iterdir())
    Disk(monkeypatch, int(share * size))
    with pytest.raises(StorageFull, match=r"needed, .*free"):
        save(tmp_path, 2)
    monkeypatch.undo()
    found = checkpoint_store.newest(tmp_path)
    assert found is not None and found.step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_on_a_full_disk_the_oldest_goes_and_the_save_is_tried_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    first, *_ = [save(tmp_path, step) for step in (1, 2, 3)]
    disk = Disk(monkeypatch, 300, regain=5000, number=number)
    save(tmp_path, 4, best=first)
    assert disk.removals == 1
    assert steps(tmp_path) == [1, 3, 4]


def test_on_a_full_disk_the_only_good_one_and_the_best_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = save(tmp_path, 1)
    save(tmp_path, 2)
    break_it(save(tmp_path, 3))
    Disk(monkeypatch, 10, regain=5000)
    with pytest.raises(StorageFull):
        save(tmp_path, 4, best=best)
    assert steps(tmp_path) == [1, 2, 3]


def test_other_io_errors_are_passed_on_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch, 10, number=errno.EIO)
    with pytest.raises(OSError, match="Input/output") as caught:
        save(tmp_path, 1)
    assert not isinstance(caught.value, StorageFull)
    assert list(tmp_path.iterdir()) == []


def test_space_is_asked_for_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [save(tmp_path, step) for step in (1, 2, 3)]
    size = sum(p.stat().st_size for p in paths[0].iterdir())
    free = 100
    monkeypatch.setattr(checkpoint_store, "_free_bytes", lambda folder: free + size * (3 - len(steps(folder))))
    with pytest.raises(StorageFull) as caught:
        checkpoint_store.save(tmp_path, 4, {"model": {"w": torch.zeros(1_000_000)}}, {}, {})
    assert steps(tmp_path) == [1, 2, 3], "nothing is removed where it would not help"
    assert caught.value.need_bytes >= 6_000_000 and caught.value.free_bytes == 100
    assert str(tmp_path) in str(caught.value) and "6.0 MB needed" in str(caught.value)
    save(tmp_path, 4)
    assert steps(tmp_path) == [2, 3, 4], "one is enough here"


def test_storage_full_survives_pickling(tmp_path: Path) -> None:
    error = StorageFull(tmp_path, 3_000_000, 1_000_000)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.errno == errno.ENOSPC and again.need_bytes == 3_000_000


@pytest.mark.soak
def test_a_thousand_saves_leak_neither_files_nor_memory(tmp_path: Path) -> None:
    tensors = {"model": {"w": torch.zeros(10_000)}}

    def cycle(count: int) -> tuple[int, int]:
        for step in range(count):
            checkpoint_store.read(checkpoint_store.save(tmp_path, step % 5, tensors, {}, {})).tensors("model")
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return len(os.listdir("/proc/self/fd")), pages * os.sysconf("SC_PAGE_SIZE")

    before, after = cycle(20), cycle(1000)
    assert after[0] == before[0] and after[1] - before[1] < 20e6
