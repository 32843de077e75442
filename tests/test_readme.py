"""Every command of the README is run as it stands there, but for places, time and size."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raydet.cli import main as cli
from tests.data.formats.annotated.layouts import forty, write_voc
from tests.data.s3_stub import serving
from tests.test_examples import CLASSIFIER, DETECTOR

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str = "") -> list[str]:
    every = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for named, text in every if named == language]


def commands() -> list[str]:
    """Return the commands of all unnamed code blocks, continued lines joined."""
    lines = "".join(blocks()).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.startswith(("make", "raydet", "ray "))]


Run = Callable[[list[str]], str]


@pytest.fixture
def raydet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in tmp_path, in this process; return what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(words: list[str]) -> str:
        code = cli.run(words)
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return run


def readme_command(start: str) -> list[str]:
    (found,) = [command for command in commands() if command.startswith(start)]
    return shlex.split(found)[1:]


HERE = {
    "make demo": "test_make_knows_its_targets, and CI's nightly",
    "make test": "CI",
    "raydet fit /data/shop": "test_training_on_your_data",
    "raydet fit efficientdet_d0_coco --data.format yolo": "test_training_on_yolo_labels",
    'raydet fit efficientnet_b0_imagenet --data.root "s3': "test_training_from_an_object_store",
    "raydet check": "test_looking_through_data",
    "raydet convert": "test_converting_a_data_set",
    "raydet bench data": "test_timing_data",
    "raydet fit demo_detection": "test_a_dry_run",
    "raydet fit efficientnet_b0_imagenet --data.root /data": "test_training_a_classifier",
    "raydet fit efficientdet_d0_coco --scaling.use_gpu": "test_the_gpu_command",
    "raydet bench ops": "test_timing_an_operation",
    "raydet evaluate runs": "test_the_python_block_then_evaluate_and_predict",
    "raydet fit demo_classification_qat": "test_int8",
    "raydet export": "test_int8",
    "raydet evaluate digits.onnx": "test_int8",
    "raydet bench quantization": "test_int8",
    "raydet tune demo_classification --space lr_wd": "test_search",
    "raydet fit --from runs/demo_classification-lr_wd": "test_search",
    "raydet fit --from runs/demo_detection": "test_the_python_block_then_evaluate_and_predict",
    "raydet tune demo_detection --set": "test_search_by_ranges",
    "raydet tune demo_classification --space lr-range-test": "test_the_range_test",
    "raydet predict": "test_the_python_block_then_evaluate_and_predict",
    "raydet fit demo_classification --scaling.num_workers 2": "tests/driver/test_fit.py",
    "ray job submit": "tests/test_job.py",
}


def test_every_command_is_covered() -> None:
    for command in commands():
        assert any(command.startswith(start) for start in HERE), f"no test runs: {command}"
    for start in HERE:
        assert any(command.startswith(start) for command in commands()), f"not in the README: {start}"


def test_make_knows_its_targets() -> None:
    for target in ("demo", "test", "gpu", "lint", "clean"):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()
    plan = subprocess.run(["make", "-n", "demo"], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert "examples/demo.py" in plan


@pytest.mark.slow
def test_training_on_your_data(toy_detection: Path, tmp_path: Path, raydet: Run) -> None:
    words = readme_command("raydet fit /data/shop")
    words[words.index("/data/shop")] = str(toy_detection)
    small = ["--model.image_size", "128", "--schedule.epochs", "1", "--model.weights", "none", "--data.workers", "0"]
    out = raydet([*words, *small, "--json"])
    assert json.loads(out.splitlines()[-1])["run"] == str(tmp_path / "runs" / "shop")


@pytest.mark.slow
def test_training_a_classifier(toy_classification: Path, raydet: Run) -> None:
    words = readme_command("raydet fit efficientnet_b0_imagenet --data.root /data")
    words[words.index("/data/flowers")] = str(toy_classification)
    out = raydet([*words, *CLASSIFIER.split(), "--json"])
    assert "top1" in json.loads(out.splitlines()[-1])


@pytest.mark.slow
def test_looking_through_data(toy_detection: Path, tmp_path: Path, raydet: Run) -> None:
    words = readme_command("raydet check")
    words[words.index("/data/shop")] = str(toy_detection)
    assert "result    good" in raydet(words)
    assert {p.name for p in (tmp_path / "check").iterdir()} == {
        *("report.json", "quarantine.txt", "duplicates.csv", "plots")
    }


@pytest.mark.slow
def test_training_on_yolo_labels(toy_detection: Path, tmp_path: Path, raydet: Run) -> None:
    root = as_yolo(toy_detection, tmp_path / "yolo")
    words = readme_command("raydet fit efficientdet_d0_coco --data.format yolo")
    words[words.index("/data/my-yolo")] = str(root)
    out = raydet([*words, *DETECTOR.split(), "--schedule.epochs", "1", "--json"])
    assert "AP50" in json.loads(out.splitlines()[-1])


def test_converting_a_data_set(tmp_path: Path, raydet: Run) -> None:
    write_voc(tmp_path / "voc", forty())
    words = [word.replace("/data/", f"{tmp_path}/") for word in readme_command("raydet convert")]
    assert "train_boxes       40" in raydet(words)


def as_yolo(coco: Path, root: Path) -> Path:
    """The data set as YOLO has it: images linked, a line of class, centre and size for each box."""
    for split in ("train", "val"):
        content = json.loads((coco / "annotations" / f"instances_{split}.json").read_text())
        (root / "labels" / split).mkdir(parents=True)
        (root / "images").mkdir(exist_ok=True)
        shutil.copytree(coco / split, root / "images" / split)
        for image in content["images"]:
            lines = []
            for a in (a for a in content["annotations"] if a["image_id"] == image["id"]):
                x, y, w, h = a["bbox"]
                sides = (image["width"], image["height"])
                centre = ((x + w / 2) / sides[0], (y + h / 2) / sides[1])
                lines.append(f"{a['category_id'] - 1} {centre[0]} {centre[1]} {w / sides[0]} {h / sides[1]}")
            (root / "labels" / split / f"{Path(image['file_name']).stem}.txt").write_text("\n".join(lines))
    names = [c["name"] for c in content["categories"]]
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {json.dumps(names)}\n")
    return root


@pytest.mark.slow
def test_training_from_an_object_store(
    toy_classification: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raydet: Run
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    words = readme_command('raydet fit efficientnet_b0_imagenet --data.root "s3')
    with serving() as store:
        images = {str(p.relative_to(toy_classification)): p.read_bytes() for p in toy_classification.rglob("*.jpg")}
        store.buckets["bucket"] = {f"flowers/{name}": data for name, data in images.items()}
        words = [word.replace("minio:9000", f"127.0.0.1:{store.port}") for word in words]
        out = raydet([*words, *CLASSIFIER.split(), "--json"])
    assert "top1" in json.loads(out.splitlines()[-1])


@pytest.mark.slow
def test_timing_data(raydet: Run) -> None:
    out = raydet([*readme_command("raydet bench data"), "--rounds", "1", "--model.image_size", "64"])
    assert "dali-cpu" in out and "cores feed the GPU" in out


@pytest.mark.slow
def test_a_dry_run(tmp_path: Path, raydet: Run) -> None:
    out = raydet(readme_command("raydet fit demo_detection"))
    assert "schedule.epochs: 10 -> 3" in out and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_gpu_command(
    toy_detection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a GPU it is refused, naming the setting, before anything is written."""
    words = readme_command("raydet fit efficientdet_d0_coco --scaling.use_gpu")
    small = [*DETECTOR.split(), "--data.root", str(toy_detection), "--model.num_classes", "none"]
    splits = [*("--data.train", "annotations/instances_train.json"), *("--data.val", "annotations/instances_val.json")]
    monkeypatch.chdir(tmp_path)
    code, err = cli.run([*words, *small, *splits]), capsys.readouterr().err
    if torch.cuda.is_available():
        assert code == 0, err
    else:
        assert code == 2 and "scaling.use_gpu=true" in err and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_timing_an_operation(raydet: Run) -> None:
    out = raydet([*readme_command("raydet bench ops"), "--rounds", "1"])
    assert "assign_anchors" in out and "x the floor" in out


@pytest.mark.slow
def test_the_python_block_then_evaluate_and_predict(
    toy_detection: Path, tmp_path: Path, raydet: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = blocks("python")
    changes = {"data.root": str(toy_detection), "data.workers": 0, "scaling.num_workers": 0, "model.image_size": 64}
    quick = f"cfg = raydet.override(cfg, {changes!r})\n"
    exec(code.replace("result = ", quick + "result = ").replace('"schedule.epochs": 3', '"schedule.epochs": 1'), {})
    assert 0 <= float(capsys.readouterr().out.split()[-1]) <= 1

    (tmp_path / "runs" / "short").rename(tmp_path / "runs" / "demo_detection")
    (tmp_path / "photo.jpg").write_bytes(next(iter((toy_detection / "val").glob("*.jpg"))).read_bytes())
    assert "AP50" in raydet(readme_command("raydet evaluate runs"))
    raydet(readme_command("raydet predict"))
    assert (tmp_path / "found" / "photo.png").is_file() and (tmp_path / "found" / "predictions.json").is_file()
    raydet([*readme_command("raydet fit --from runs/demo_detection"), "--schedule.epochs", "1"])
    assert (tmp_path / "runs" / "demo_detection_int8" / "result.json").is_file()


@pytest.mark.slow
def test_int8(toy_classification: Path, tmp_path: Path, raydet: Run) -> None:
    small = ["--data.root", str(toy_classification), "--data.workers", "0", "--scaling.num_workers", "0"]
    raydet(["fit", "demo_classification", *small, "--schedule.epochs", "1"])
    raydet([*readme_command("raydet fit demo_classification_qat"), *small, "--quantization.batches", "3"])
    out = raydet([*readme_command("raydet export"), "--images", "30"])
    assert "argmax_agreement" in out and "ratio_to_float" in out
    assert "top1" in raydet(readme_command("raydet evaluate digits.onnx"))
    out = raydet([*readme_command("raydet bench quantization"), "--rounds", "1"])
    assert "| PTQ | onnxruntime |" in out and (tmp_path / "int8" / "sensitivity.png").is_file()


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target


TINY = "--schedule.epochs 1 --schedule.warmup_epochs 0 --data.workers 0"


@pytest.mark.slow
@pytest.mark.soak
def test_search(toy_classification: Path, tmp_path: Path, raydet: Run, shared_ray: None) -> None:
    words = readme_command("raydet tune demo_classification --space lr_wd")
    words[words.index("--num-samples") + 1], words[words.index("--confirm") + 1] = "2", "1"
    tiny = [*TINY.split(), "--data.root", str(toy_classification), "--set", "ema.decay=choice(0.99, none)"]
    out = raydet([*words, *tiny])
    assert "best      trial" in out and "train it  raydet fit --from" in out
    words = readme_command("raydet fit --from runs/demo_classification-lr_wd")
    assert (tmp_path / words[words.index("--from") + 1]).is_file()
    raydet([*words, "--scaling.num_workers", "0"])
    assert (tmp_path / "runs" / "demo_classification-lr_wd-best" / "result.json").is_file()


@pytest.mark.soak
def test_search_by_ranges(toy_detection: Path, tmp_path: Path, raydet: Run, shared_ray: None) -> None:
    words = readme_command("raydet tune demo_detection --set")
    words[words.index("--num-samples") + 1] = "1"
    tiny = [*TINY.split(), "--data.root", str(toy_detection), "--model.image_size", "64"]
    raydet([*words, *tiny, "--evaluation.recalibrate_bn", "0", "--json"])
    assert (tmp_path / "runs" / "demo_detection-set" / "best.json").is_file()


@pytest.mark.slow
@pytest.mark.soak
def test_the_range_test(toy_classification: Path, raydet: Run, shared_ray: None) -> None:
    words = readme_command("raydet tune demo_classification --space lr-range-test")
    out = raydet([*words, "--data.workers", "0", "--data.root", str(toy_classification), "--json"])
    assert Path(json.loads(out)["figure"]).is_file()
