"""`raydet bench quantization`: its table, its figure, its profile, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from raydet import models
from raydet.bench.quantization import bench_quantization, profile
from raydet.bench.quantization_report import lines
from raydet.cli import main as cli
from raydet.config import Config, override
from raydet.exceptions import ConfigError
from raydet.onnx import saturation
from raydet.onnx.targets import build
from tests.workers import trained

pytest.importorskip("onnxruntime")


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("kind", ["classification", "detection"])
def test_floats_and_integers_are_scored_sized_and_timed(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg: Config = override(request.getfixturevalue(kind), {"schedule.epochs": 1})
    floats = trained(cfg, tmp_path / "floats")
    changes = {"model.weights": str(floats), "quantization.batches": 2, "optim.lr": 1e-4}
    qat = trained(override(cfg, changes), tmp_path / "qat")
    words = ["bench", "quantization", str(floats), "--qat", str(qat), "--rounds", "1", "--out", str(tmp_path / "out")]
    assert cli.run([*words, "--quantization.batches", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = {(row["variant"], row["runtime"]): row for row in report["rows"]}
    assert set(rows) == {("float", "torch"), ("float", "onnxruntime")} | {
        (name, runtime)
        for name in ("PTQ", "QAT")
        for runtime in ("torch", "onnxruntime", "onnxruntime full range", "tensorrt")
    }
    assert all(rows[name, "onnxruntime"]["saturating_layers"] == 0 for name in ("float", "PTQ", "QAT"))
    assert (rows["PTQ", "onnxruntime full range"]["saturating_layers"] > 0) == saturation.saturates()
    assert report["instructions"].endswith("saturate without VNNI" if saturation.saturates() else "are exact")
    score = "top1" if kind == "classification" else "AP"
    assert all(0 <= row[score] <= 1 for row in rows.values())
    assert rows["float", "onnxruntime"]["speedup_1"] == rows["float", "onnxruntime"]["speedup_32"] == 1
    assert rows["PTQ", "onnxruntime"]["megabytes"] < 0.6 * rows["float", "onnxruntime"]["megabytes"]
    assert all(abs(sum(shares.values()) - 1) < 1e-6 for shares in report["profiles"].values())
    assert "speedup_1" not in rows["PTQ", "tensorrt"]  # its file is not for this runtime
    with Image.open(tmp_path / "out" / "sensitivity.png") as figure:
        assert figure.width > 400
    assert "| QAT | onnxruntime |" in (tmp_path / "out" / "quantization.md").read_text()


@pytest.mark.slow
def test_a_profile_names_operators_and_shares_the_largest_first() -> None:
    model = models.build("efficientnet_demo", 10).eval()
    data = build(model, torch.zeros(2, 3, 64, 64), target="onnxruntime").SerializeToString()
    shares = profile(data, torch.zeros(4, 3, 64, 64), runs=2)
    values = list(shares.values())
    assert values == sorted(values, reverse=True) and abs(sum(values) - 1) < 1e-6 and "Conv" in shares


def test_what_is_neither_a_checkpoint_nor_all_models_is_refused() -> None:
    for sources, told in (
        ([], "name a float checkpoint"),
        (["efficientnet_b0", "nowhere"], "nowhere is no model's name"),
        (["nowhere"], "no checkpoint, run folder or recipe 'nowhere'"),
    ):
        with pytest.raises(ConfigError, match=told):
            bench_quantization(sources, {})


def test_what_would_fail_at_the_end_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for how, told in (({"rounds": 0}, "--rounds must be at least 1"), ({"out": tmp_path / "file"}, "is a file")):
        with pytest.raises(ConfigError, match=told):
            bench_quantization(["efficientnet_demo"], {}, **how)


def test_only_a_quantized_run_of_the_same_model_stands_as_qat(trained_classifier: Path) -> None:
    floats = str(trained_classifier)
    with pytest.raises(ConfigError, match="must be a quantized run of efficientnet_demo"):
        bench_quantization([floats], {}, qat=floats)
    with pytest.raises(ConfigError, match=r"quantization\.bits=4 cannot be compared"):
        bench_quantization([floats], {"quantization.bits": 4})


def test_other_benchmarks_take_no_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "step", "runs/a"]) == 2
    assert "bench step takes no 'runs/a'" in capsys.readouterr().err


def test_the_table_says_what_to_leave_in_floats() -> None:
    scores = {"eval_loss": 1.0, "top1": 0.9}
    worse = {"eval_loss": 1.5, "top1": 0.5}
    found = {"score": "top1", "images": 8, "floats": scores, "int8": worse, "alone": {"se": worse, "stem": scores}}
    texts = [
        "\n".join(lines({"rows": [], "profiles": {}, "sensitivity": {**found, "skip": skip, "skipped": scores}}))
        for skip in (("se",), ())
    ]
    assert "--quantization.skip se gives 0.9000" in texts[0] and "| se | 1.5000 | 0.5000 |" in texts[0]
    assert "leaving a few groups in floats is not enough" in texts[1]
