"""The benchmark compares like with like and says what it measured."""

import json
from pathlib import Path

import pytest
import torch

from raydet.bench import gpu
from raydet.bench.data import bench_data
from raydet.bench.gpu import bench_gpu
from raydet.bench.op_cases import CASES
from raydet.bench.ops import bench_ops, markdown
from raydet.bench.step import bench_step, ours, synthetic
from raydet.bench.timing import shares, temporary_bytes
from raydet.config import override
from raydet.exceptions import ConfigError
from raydet.ops import BatchDetections, Targets
from raydet.recipes import recipe
from raydet.training.state import resolve_model

SMALL = {"model.image_size": 128}


@pytest.mark.slow
def test_both_sides_are_timed_in_turn_and_the_ratio_is_theirs_over_ours() -> None:
    pytest.importorskip("effdet")
    values = bench_step("efficientdet_d0_coco", SMALL, "effdet", batch=2, rounds=2)
    assert values["ratio"] == pytest.approx(float(values["effdet_s"]) / float(values["ours_s"]))
    assert float(values["ours_min_s"]) <= float(values["ours_s"]) <= float(values["ours_max_s"])
    assert values["image_size"] == 128 and values["batch"] == 2 and values["threads"] == 1


@pytest.mark.slow
def test_the_moving_average_is_part_of_the_step() -> None:
    cfg = resolve_model(override(recipe("efficientdet_d0_coco"), {**SMALL, "ema.decay": 0.5, "data.batch_size": 1}))
    step = ours(override(cfg, {"data.batch_size": 2}), synthetic(2, 128, 90), 90, torch.device("cpu"))
    trainer = step()
    assert trainer.state.average is not None and trainer.state.step == 1


@pytest.mark.slow
def test_the_gpu_benchmark_writes_what_it_measured_also_where_a_case_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(name: str, settings: dict[str, object], vs: str | None, batch: int, rounds: int) -> dict[str, float | str]:
        if settings.get("precision.cuda_graph"):
            raise RuntimeError("no capture here")
        if batch > 100:
            raise torch.OutOfMemoryError
        return {"ours_s": 0.5, "ratio": 2.5, "machine": "none"}

    rows = bench_ops("cpu", ["sgd"], rounds=1)
    for name, value in {"is_available": True, "get_device_name": "NVIDIA X1", "max_memory_allocated": 1 << 30}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(gpu, "bench_ops", lambda *args, **settings: rows)
    monkeypatch.setattr(gpu, "bench_step", step)
    result = bench_gpu(tmp_path / "out")
    (text,) = (tmp_path / "out").glob("gpu_nvidia-x1_*.md")
    assert json.loads(text.with_suffix(".json").read_text()) == result and not result["left_out"]
    assert len(result["steps"]) == len(list(gpu.cases()))
    for words in ("batch 8: 16 images/s", "takes 2.50 x the time", "no capture here", "out of memory", "| sgd |"):
        assert words in text.read_text(), words


def test_without_a_gpu_the_gpu_benchmark_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="needs a CUDA GPU"):
        bench_gpu(tmp_path)


@pytest.mark.slow
def test_every_operation_is_measured_beside_its_peers() -> None:
    assert set(CASES) >= {"focal_loss", "assign_anchors", "detect", "batched_nms", "ema_update", "sgd", "rmsprop"}
    rows = bench_ops("cpu", ["sgd", "assign_anchors"], rounds=1)
    sides = {(row["op"], row["side"]) for row in rows}
    assert {("sgd", "raydet"), ("sgd", "torch loop"), ("assign_anchors", "pytorch")} <= sides
    for row in rows:
        assert 0 < row["least_s"] <= row["seconds"] <= row["most_s"]
        assert row["times_floor"] == pytest.approx(row["seconds"] * row["copy_bytes_per_s"] / row["floor_bytes"])
    (ours_s,) = (row["seconds"] for row in rows if row["op"] == "sgd" and row["side"] == "raydet")
    (loop,) = (row for row in rows if row["side"] == "torch loop")
    assert loop["times_ours"] == pytest.approx(loop["seconds"] / ours_s)
    assert all(row["op"] in text and row["side"] in text for row, text in zip(rows, markdown(rows)[2:], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["assign_anchors", "detect"])
def test_the_sides_of_an_operation_compute_the_same(name: str) -> None:
    pytest.importorskip("effdet")
    sides = CASES[name](torch.device("cpu"), False).sides
    mine, theirs = sides["raydet"](), sides["effdet"]()
    if name == "detect":
        assert isinstance(mine, BatchDetections) and isinstance(theirs, torch.Tensor)
        torch.testing.assert_close(mine.boxes_BD4, theirs[..., :4], rtol=1e-5, atol=1e-3)
        assert torch.equal(mine.classes_BD + 1, theirs[..., 5].long())
    else:
        assert isinstance(mine, Targets) and isinstance(theirs, tuple)
        assert torch.equal(mine.positives_B, theirs[2].long())


@pytest.mark.slow
def test_the_losses_that_are_compared_are_equal() -> None:
    sides = CASES["focal_loss"](torch.device("cpu"), False).sides
    (mine,), *others = (sides[side]() for side in sides)
    for (gradient,) in others:
        torch.testing.assert_close(gradient, mine, rtol=1e-4, atol=1e-7)


def test_a_profile_names_the_dearest_operations_and_their_shares() -> None:
    left, right = torch.randn(600, 600), torch.randn(600, 600)
    found = shares(lambda: (left @ right).add_(1.0), torch.device("cpu"), most=3)
    assert next(iter(found)) == "aten::mm" and 0.5 < found["aten::mm"] < 1 and sum(found.values()) <= 1 + 1e-9


def test_an_operation_that_does_not_exist_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no operation focal; there are focal_loss, assign_anchors"):
        bench_ops("cpu", ["focal"])


def test_memory_that_work_needs_and_frees_is_seen() -> None:
    def work() -> None:
        torch.ones(1 << 24).sum()
        torch.ones(1 << 22).sum()

    for _ in range(2):  # memory that the process has already counts too
        needed = temporary_bytes(work, torch.device("cpu"))
        assert needed is not None and 64 << 20 <= needed < 65 << 20


@pytest.mark.slow
def test_timms_step_can_be_timed_beside_ours() -> None:
    pytest.importorskip("timm")
    small = {"model.image_size": 64, "augment.autoaugment": None}
    values = bench_step("efficientnet_b0_imagenet", small, "timm", batch=2, rounds=1)
    assert values["ratio"] == pytest.approx(float(values["timm_s"]) / float(values["ours_s"]))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "peer"), [("efficientdet_d0_coco", "effdet"), ("efficientnet_b0_imagenet", "timm")])
def test_data_is_timed_by_backend_peer_and_stage(name: str, peer: str) -> None:
    found = bench_data(name, {"model.image_size": 128}, rounds=1, images_per_s=1000)
    rows = {row["backend"]: row for row in found["rows"]}
    assert list(rows) == ["torch", "dali-cpu", peer]
    assert rows["torch"]["torch_over_it"] == 1 and all(row["ms"] > 0 for row in rows.values())
    assert all(row["cores"] == -(-1000 * row["ms"] // 1000) for row in rows.values())
    assert sum(found["stages"].values()) == pytest.approx(1) and min(found["stages"].values()) > 0
    assert found["images"] == 64 and 10_000 < found["bytes"] < 200_000


@pytest.mark.slow
def test_data_of_the_users_own_is_timed_and_a_backend_is_not_chosen(toy_detection: Path) -> None:
    own = {
        "data.root": str(toy_detection),
        "data.train": "annotations/instances_train.json",
        "data.class_ids": "contiguous",
    }
    found = bench_data("efficientdet_d0_coco", {**own, "model.image_size": 128}, rounds=1, peers=False)
    assert found["images"] == 24
    with pytest.raises(ConfigError, match=r"data\.backend"):
        bench_data("efficientdet_d0_coco", {**own, "data.backend": "dali-cpu"})
