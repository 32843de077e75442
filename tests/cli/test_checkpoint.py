"""`raydet checkpoint`: what a run has saved, and whether it is whole."""

import json
import shutil
from pathlib import Path

import pytest

from raydet.cli import main as cli


@pytest.fixture
def run(begun_run: Path) -> Path:
    """A run of its own with two checkpoints, the second a copy of the first."""
    first = next((begun_run / "checkpoints").glob("step_*"))
    shutil.copytree(first, first.with_name("step_00000099"))
    return begun_run


def answer(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = cli.run(["checkpoint", *words])
    return code, capsys.readouterr().out


def test_whole_ones_are_listed_with_their_scores(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = answer(["list", str(run)], capsys)
    first, second = out.splitlines()
    assert code == 0 and first.startswith("step_00000008") and "epoch 1  top1 0." in first
    assert second.startswith("step_00000099")
    assert answer(["verify", str(run / "checkpoints" / "step_00000008")], capsys) == (
        0,
        first + "\n1 of 1 checkpoints are whole\n",
    )


def test_a_changed_byte_is_found_by_verify_and_a_missing_file_by_both(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "checkpoints" / "step_00000099" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert answer(["list", str(run)], capsys)[0] == 0
    code, out = answer(["verify", str(run)], capsys)
    assert code == 65 and "step_00000099" in out and "damaged: " in out and "SHA-256" in out
    assert out.endswith("1 of 2 checkpoints are whole\n")
    file.unlink()
    code, out = answer(["list", str(run), "--json"], capsys)
    values = json.loads(out)
    assert code == 65 and values["damaged"] == 1
    assert [("damaged" in row, row.get("step")) for row in values["checkpoints"]] == [(False, 8), (True, None)]


def test_what_holds_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["checkpoint", "list", str(tmp_path)]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err
