"""Every script in examples/ runs to its end on toy data, with the words a user would give it."""

import ast
import csv
import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

import raydet
from raydet.config import override
from raydet.config.arguments import parse_overrides
from raydet.driver.fit import fit
from raydet.recipes import recipe
from raydet.runs.result import read_result

ROOT = Path(__file__).parents[1]
QUICK = (
    "--scaling.num_workers 0 --data.workers 0 --schedule.epochs 1 --schedule.warmup_epochs 0 --run.checkpoint_epochs 1"
)
DETECTOR = (
    f"{QUICK} --model.name efficientdet_demo --model.image_size 64 --data.batch_size 4 --schedule.cooldown_epochs 0"
)
CLASSIFIER = f"{QUICK} --model.name efficientnet_demo --model.image_size 32 --data.batch_size 8 --optim.batch_size 8"


Run = Callable[..., str]


@pytest.fixture
def run_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a script of examples/ in tmp_path, in this process; return what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *words: str) -> str:
        monkeypatch.setattr("sys.argv", [name, *words])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def settings(text: str, runs: Path) -> list[str]:
    return [*text.split(), "--run.storage_path", str(runs)]


def test_examples_use_the_public_names_alone() -> None:
    for path in sorted((ROOT / "examples").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.startswith("raydet.") for name in imported), f"{path.name}: {imported}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "raydet":
                assert node.attr in raydet.__all__, f"{path.name}: raydet.{node.attr}"


@pytest.mark.slow
def test_fit_coco(toy_detection: Path, tmp_path: Path, run_script: Run) -> None:
    places = ("annotations/instances_train.json", "annotations/instances_val.json")
    out = run_script("fit_coco.py", str(toy_detection), *places, *settings(DETECTOR, tmp_path))
    assert out.startswith("AP ") and read_result(tmp_path / "fit_coco") is not None


@pytest.mark.slow
def test_fit_imagefolder(toy_classification: Path, tmp_path: Path, run_script: Run) -> None:
    out = run_script("fit_imagefolder.py", str(toy_classification), *settings(CLASSIFIER, tmp_path))
    assert out.startswith("top-1 ") and read_result(tmp_path / "fit_imagefolder") is not None


@pytest.mark.slow
def test_own_dataset(toy_detection: Path, tmp_path: Path, run_script: Run) -> None:
    truth = json.loads((toy_detection / "annotations" / "instances_train.json").read_text())
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    with (tmp_path / "boxes.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "x1", "y1", "x2", "y2", "class"])
        for box in truth["annotations"]:
            x, y, w, h = box["bbox"]
            table.writerow([names[box["image_id"]], x, y, x + w, y + h, f"digit {box['category_id'] - 1}"])
    images = str(toy_detection / "train")
    out = run_script("own_dataset.py", "boxes.csv", images, *settings(DETECTOR, tmp_path / "runs"))
    assert out.startswith("AP50 ") and read_result(tmp_path / "runs" / "own_dataset") is not None


@pytest.mark.slow
def test_own_recipe(toy_detection: Path, tmp_path: Path, run_script: Run) -> None:
    places = f"--data.root {toy_detection} --data.train annotations/instances_train.json"
    words = settings(f"{places} --data.val annotations/instances_val.json {DETECTOR}", tmp_path)
    out = run_script("own_recipe.py", *words)
    assert out.startswith("AP ") and read_result(tmp_path / "tiles_d1") is not None


def test_every_example_is_named_in_a_test() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for script in (ROOT / "examples").glob("*.py"):
        assert f'"{script.name}"' in tests, f"no test runs examples/{script.name}"


def test_examples_are_short() -> None:
    for script in (ROOT / "examples").glob("*.py"):
        if script.name != "demo.py":
            assert len(script.read_text().splitlines()) <= 56, script.name


@pytest.mark.soak
def test_int8(toy_classification: Path, tmp_path: Path, run_script: Run) -> None:
    small = f"--data.root {toy_classification} --data.workers 0 --scaling.num_workers 0 --schedule.epochs 1"
    floats = fit(override(recipe("demo_classification"), parse_overrides(settings(small, tmp_path / "runs"))))
    words = [str(floats.dir), "demo_classification_qat", "int8.onnx", *settings(small, tmp_path / "runs")]
    out = run_script("int8.py", *words)
    assert out.startswith("without training: {'quantization.") and "of the float file: {" in out
    assert (tmp_path / "int8.onnx").is_file()


@pytest.mark.slow
@pytest.mark.soak
def test_search(toy_classification: Path, tmp_path: Path, run_script: Run, shared_ray: None) -> None:
    tiny = "--schedule.epochs 1 --schedule.warmup_epochs 0 --data.workers 0"
    more = ["--num-samples", "2", "--data.root", str(toy_classification)]
    out = run_script("search.py", "demo_classification", *more, *settings(tiny, tmp_path))
    assert "best: trial" in out and "trained once more: {" in out
    assert read_result(tmp_path / "demo_classification-lr_wd-best") is not None
