"""The command line: its verbs, its exit codes, its error messages, its last line with --json."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raydet.cli import commands, fit
from raydet.cli import main as cli
from raydet.cli.parser import print_result
from raydet.config import Config, override
from raydet.driver.plan import make_plan
from raydet.driver.run_folder import claimed
from raydet.exceptions import (
    CheckpointError,
    DataError,
    NonFiniteLoss,
    Refused,
    RunFailed,
    StorageFull,
    UnsafeWeights,
    WeightsError,
)
from tests.commands import ROOT, descendants, environment, logged_steps, raydet, running, until, words


def test_the_verbs_are_those_released() -> None:
    """A verb may be added, none may go."""
    assert {"fit", "tune", "evaluate", "predict", "export", "check", "bench"} <= set(cli.VERBS)


def test_the_exit_codes_are_those_released() -> None:
    codes = (cli.DONE, cli.FAILED, cli.USAGE, cli.REFUSED, cli.BAD_DATA, cli.STORAGE_FULL, cli.INTERRUPTED)
    assert codes == (0, 1, 2, 3, 65, 75, 130)


def test_no_words_show_the_verbs_and_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 2
    assert "raydet fit RECIPE" in capsys.readouterr().out


# --- errors: one message of at most six lines, the right code, nothing left behind


@pytest.fixture
def toy(classification: Config) -> list[str]:
    """The words of a run that would work, of no worker's making yet."""
    return ["fit", *words(override(classification, {"scaling.num_workers": 1}))]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the checkout, whose `runs` may hold the demo: the recipes' own run names would then be taken."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], storage: Path) -> tuple[int, str]:
    code = cli.run(arguments)
    out, err = capsys.readouterr()
    assert err.startswith("raydet: ") and len(err.splitlines()) <= cli.MOST_LINES and "Traceback" not in err
    assert out == "" and not storage.exists()
    return code, err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fit", "demo_classification", "--from", __file__], 2, "its settings or those of demo_classification"),
        (["fit", "--from", "/no/run"], 2, "--from /no/run: no such run or file"),
        (["fit", "--from", "/no/config.json"], 2, "/no/config.json"),
        (["fit", "demo_classification", "--run.name", "../up"], 2, "run.name must be"),
        (["fit", "demo_classification", "--run.storage_path", "s3://b/p"], 2, "run.storage_path must be a folder"),
        (["fit", "demo_classification", "--data.root", "/no/such"], 65, "/no/such"),
        (["tune", "demo_classification"], 2, "nothing to search: give a space (lr, wd, lr_wd"),
        (["tune", "demo_classification", "--space", "lrwd"], 2, "no search space 'lrwd'; did you mean lr_wd"),
        (["tune", "demo_classification", "--space", "detector"], 2, "space detector needs a detector"),
        (["tune", "demo_classification", "--set", "optim.lrr=uniform(0, 1)"], 2, "did you mean optim.lr"),
        (["tune", "demo_classification", "--space", "lr", "--algorithm", "bayes"], 2, "algorithm must be one of tpe"),
        (["tune", "demo_classification", "--space", "lr", "--budget", "120"], 2, "120"),
        (["tune", "demo_classification", "--space", "lr", "--num-samples", "0"], 2, "num_samples must be a whole"),
        (["tune", "demo_classification", "--space", "lr", "--data.root", "/no/such"], 65, "/no/such"),
        (["tune", "demo_classification", "--space", "lr-range-tst"], 2, "did you mean lr-range-test?"),
        (
            ["tune", "demo_classification", "--space", "lr-range-test", "--budget", "2m"],
            2,
            "--budget: lr-range-test is",
        ),
        (["evaluate", "/no/such"], 2, "no checkpoint, run folder or recipe '/no/such'"),
        (["export", "/no/such", "x.onnx"], 2, "no checkpoint, run folder or recipe '/no/such'"),
        (["export", "/no/such", "x.pt"], 2, "must end with .onnx"),
        (["export", "/no/such", "x.onnx", "--target", "trt"], 2, "target must be tensorrt or onnxruntime, got 'trt'"),
        (["evaluate", "/no/such.onnx"], 2, "/no/such.onnx"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_message(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    got, err = refused(arguments, capsys, tmp_path / "runs")
    assert got == code and message in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        (["--model.num_classes", "7"], 2, "model.num_classes=7, but data.train=train has 10"),
        (["--model.weights", "/no/such.pth"], 2, "model.weights: no such file or folder: /no/such.pth"),
        (["--model.name", "efficientnet_b9"], 2, "model.name"),
        (["--data.val", "nothing"], 65, "nothing: no such file or folder (data.val)"),
        (["--scaling.num_workers", "9"], 2, "scaling.num_workers=9: a global batch of 8 images"),
        (["--scaling.address", "127.0.0.1:9"], 2, "scaling.address: no Ray cluster answers at 127.0.0.1:9"),
        (["--scaling.address", "ray://127.0.0.1:9"], 2, "Ray Client cannot run Ray Train"),
    ],
)
def test_what_does_not_fit_data_or_machine_is_said_before_anything_is_written(
    toy: list[str], changes: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    got, err = refused([*toy, *changes], capsys, tmp_path / "runs")
    assert got == code and message in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_said_before_anything_is_written(
    toy: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, err = refused([*toy, "--scaling.use_gpu", "true"], capsys, tmp_path / "runs")
    assert code == 2 and "there are 0 GPUs here" in err


class Evil:
    """Pickled, it runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_weights_that_hold_code_are_refused_and_not_run(
    toy: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch.save({"state_dict": Evil(tmp_path / "ran")}, tmp_path / "evil.pth")
    code, err = refused([*toy, "--model.weights", str(tmp_path / "evil.pth")], capsys, tmp_path / "runs")
    assert code == cli.REFUSED and "holds pickled code" in err and not (tmp_path / "ran").exists()


def test_truncated_weights_are_bad_data(toy: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:700])
    code, err = refused([*toy, "--model.weights", str(tmp_path / "cut.pth")], capsys, tmp_path / "runs")
    assert code == cli.BAD_DATA and "truncated" in err


@pytest.fixture(scope="module")
def trained(toy_classification: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    storage = tmp_path_factory.mktemp("trained")
    changes = ["--data.root", str(toy_classification), "--data.workers", "0", "--run.storage_path", str(storage)]
    assert cli.run(["fit", "demo_classification", *changes, *FAST]) == 0
    return storage / "demo_classification"


FAST = ["--schedule.epochs", "1", "--scaling.num_workers", "0", "--run.log_steps", "4"]


@pytest.mark.slow
def test_a_truncated_checkpoint_is_bad_data(trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    checkpoint = next((trained / "checkpoints").iterdir())
    cut = Path(shutil.copytree(checkpoint, tmp_path / "cut")) / "ema.safetensors"
    cut.write_bytes(cut.read_bytes()[:5000])
    for arguments in (["evaluate", str(cut.parent)], ["predict", str(cut.parent), "image.jpg"]):
        code, err = refused(arguments, capsys, tmp_path / "runs")
        assert code == cli.BAD_DATA and str(cut) in err


@pytest.mark.slow
def test_json_makes_the_last_line_one_object(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["fit", "--from", str(trained / "config.json"), "--json"]) == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert values["run"] == str(trained) and 0 <= values["top1"] <= 1
    assert Path(values["best"]).is_dir() and Path(values["last"]).is_dir()


def test_json_of_an_error_is_one_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["fit", "nothing", "--json"]) == 2
    out, err = capsys.readouterr()
    values = json.loads(out)
    assert values["exit_code"] == 2 and values["error"] in err


def test_json_knows_no_nan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(words: list[str]) -> None:
        print_result({"AP": float("nan"), "AP50": 0.5}, True)

    monkeypatch.setattr(commands, "evaluate", evaluate)
    assert cli.run(["evaluate"]) == 0
    assert capsys.readouterr().out == '{"AP": null, "AP50": 0.5}\n'


@pytest.mark.slow
def test_a_finished_run_starts_no_ray(trained: Path) -> None:
    code = f"""
import sys
sys.modules["ray"] = None  # importing it fails
from raydet.cli.main import main
main(["fit", "--from", {str(trained / "config.json")!r}, "--scaling.num_workers", "2"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment(), check=True
    )
    assert "nothing left to train" in done.stderr


@pytest.mark.slow
def test_a_config_of_a_run_repeats_it_under_another_name(
    trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    again = ["fit", "--from", str(trained / "config.json"), "--run.storage_path", str(tmp_path), "--run.name", "again"]
    assert cli.run([*again, "--json"]) == 0
    capsys.readouterr()
    lines = [(folder / "metrics.jsonl").read_text() for folder in (trained, tmp_path / "again")]
    first, second = (json.loads(text)["train_loss"] for text in lines)
    assert first == second


def test_another_configuration_under_the_same_name_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    assert cli.run(["fit", "--from", str(trained / "config.json"), "--optim.lr", "0.5", "--ema.decay", "0.5"]) == 2
    err = capsys.readouterr().err
    assert "optim.lr was 0.003, now 0.5" in err and "ema.decay was" in err and len(err.splitlines()) <= cli.MOST_LINES
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


@pytest.mark.slow
def test_a_second_process_at_the_same_run_is_refused(classification: Config) -> None:
    with claimed(make_plan(classification)):
        done = raydet("fit", *words(classification))
    assert done.returncode == cli.REFUSED and f"pid {os.getpid()}" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused("x"), 3),
        (UnsafeWeights("x"), 3),
        (WeightsError("x"), 65),
        (CheckpointError("x"), 65),
        (DataError("x", rule="IMG-E01"), 65),
        (StorageFull(Path("/x"), 2, 1), 75),
        (OSError(errno.ENOSPC, "full"), 75),
        (RunFailed("x"), 1),
        (NonFiniteLoss("x"), 1),
        (OSError(errno.EIO, "x"), None),
        (TypeError("x"), None),
    ],
)
def test_each_error_has_its_code_and_defects_have_none(error: Exception, code: int | None) -> None:
    assert cli.exit_code(error) == code


def test_a_missing_package_is_said_with_the_python_that_misses_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(words: list[str]) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(fit, "run", run)
    assert cli.run(["fit"]) == 1
    assert f"{sys.executable} has no torch" in capsys.readouterr().err


@pytest.mark.slow
def test_a_damaged_checkpoint_that_is_passed_over_is_a_warning_of_one_line(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    cut = next((run / "checkpoints").iterdir()) / "optim.safetensors"
    cut.write_bytes(cut.read_bytes()[:500])
    again = ["--run.storage_path", str(tmp_path), "--run.name", "run", "--dry-run"]
    done = raydet("fit", "--from", str(run / "config.json"), *again)
    assert done.returncode == 0
    assert re.fullmatch(r"raydet: warning: damaged checkpoint skipped: .*optim\.safetensors: .*\n", done.stderr)


@pytest.mark.slow
def test_sigterm_ends_a_run_with_one_line_and_the_same_command_continues(
    classification: Config, tmp_path: Path
) -> None:
    """Without Ray; tests/test_kill.py has Ctrl-C with it. No step is lost."""
    cfg = override(classification, {"schedule.epochs": 60, "run.log_steps": 1, "data.workers": 1})
    folder = tmp_path / "runs" / "run"
    with running(["fit", *words(cfg)], tmp_path) as process:
        until(
            lambda: (folder / "checkpoints").is_dir() and any((folder / "checkpoints").glob("step_*")), "a checkpoint"
        )
        for child in descendants(process.pid):  # as Slurm sends it, to the whole group
            child.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    *_, last = (tmp_path / "stderr.txt").read_text().splitlines()
    assert last.endswith("the same command continues from the last checkpoint") and last.startswith("raydet: ")
    assert "Traceback" not in (tmp_path / "stderr.txt").read_text()
    plan = make_plan(cfg)
    assert plan.continues is not None and not plan.finished
    epoch, step = logged_steps(folder)[-1]
    assert plan.continues.step == 8 * epoch + step + 1
