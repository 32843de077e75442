"""The benchmark compares like with like and says what it measured."""

from pathlib import Path

import pytest
import torch

from raydet.bench import bench_step, ours, synthetic
from raydet.bench_gpu import bench_gpu
from raydet.config import ConfigError, override
from raydet.recipes import recipe
from raydet.state import resolve_model

SMALL = {"model.image_size": 128}


def test_both_sides_are_timed_in_turn_and_the_ratio_is_theirs_over_ours() -> None:
    pytest.importorskip("effdet")
    values = bench_step("efficientdet_d0_coco", SMALL, "effdet", batch=2, rounds=2)
    assert values["ratio"] == pytest.approx(float(values["effdet_s"]) / float(values["ours_s"]))
    assert float(values["ours_min_s"]) <= float(values["ours_s"]) <= float(values["ours_max_s"])
    assert values["image_size"] == 128 and values["batch"] == 2 and values["threads"] == 1


def test_the_moving_average_is_part_of_the_step() -> None:
    cfg = resolve_model(override(recipe("efficientdet_d0_coco"), {**SMALL, "ema.decay": 0.5, "data.batch_size": 1}))
    step = ours(override(cfg, {"data.batch_size": 2}), synthetic(2, 128, 90), 90, torch.device("cpu"))
    trainer = step()
    assert trainer.state.average is not None and trainer.state.step == 1


def test_without_a_gpu_the_gpu_benchmark_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="needs a CUDA GPU"):
        bench_gpu(tmp_path)
