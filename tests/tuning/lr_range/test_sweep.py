"""The learning-rate range test: on a parabola whose limit is known, on made curves, and on toy data."""

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raydet.config import Config, override
from raydet.distributed import WorkerGroup
from raydet.driver.plan import make_plan
from raydet.exceptions import NonFiniteLoss
from raydet.training.state import State
from raydet.training.step import Trainer
from raydet.tuning.lr_range import sweep
from raydet.tuning.lr_range.sweep import Floats, ramp, ran_away, range_test, read, smoothed, suggest

CURVATURE = 10.0
"""Of the steepest direction: gradient descent leaves the parabola from a rate of 2 / CURVATURE on."""


class Parabola(nn.Module):
    """The loss itself: half of the sum of curvature times x squared."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.ones(4))

    def forward(self, images: Tensor, seeds: Tensor) -> Tensor:
        curvature = torch.tensor([CURVATURE, CURVATURE / 2, 1.0, 1.0])
        return 0.5 * (curvature * self.x**2).sum()


class Given:
    """A task whose loss is what the network says."""

    loss_names = ("loss",)
    score = "top1"

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def random_numbers(self, epoch: int, step: int) -> tuple[float, ...]:
        self.asked.append((epoch, step))
        return ()

    def targets(self, batch: Any) -> Tensor:
        return torch.ones(1)

    def weight(self, targets: Tensor) -> Tensor:
        return torch.ones((), dtype=torch.float64)

    def training_inputs(self, batch: Any, targets: Tensor, draws: Any) -> tuple[Tensor, Tensor]:
        return targets, targets

    def loss(self, outputs: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        return outputs[None]


class Epochs:
    """Batches that say nothing, three an epoch."""

    steps_per_epoch = 3

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[Any]]:
        for _ in range(self.steps_per_epoch):
            yield [SimpleNamespace(seeds_B=torch.zeros(1), rows_B=torch.zeros(1))]


def parabola(momentum: float = 0.0) -> tuple[Trainer, Given]:
    cfg = override(Config(), {"optim.grad_clip": None})
    model, task = Parabola(), Given()
    state = State(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0, momentum=momentum),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        average=None,
        frozen=[],
        sums=torch.zeros(1, dtype=torch.float64),
    )
    return Trainer(cfg, task, state, WorkerGroup()), task  # type: ignore[arg-type]


def test_on_a_parabola_the_loss_runs_away_above_the_limit_of_gradient_descent() -> None:
    trainer, _ = parabola()
    lr_N = np.geomspace(1e-5, 100, 300)
    losses = ramp(trainer, Epochs(), lr_N)
    limit = 2 / CURVATURE
    assert limit < lr_N[len(losses) - 1] < 10 * limit  # the loss must first come back from next to nothing
    found, _ = suggest(lr_N[: len(losses)], np.array(losses))
    assert found is not None and 1 / CURVATURE / 10 < found < 1 / CURVATURE


def test_the_batches_begin_again_where_they_end_each_epoch_with_draws_of_its_own() -> None:
    trainer, task = parabola()
    assert len(ramp(trainer, Epochs(), [1e-3] * 8)) == 8
    assert task.asked == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]


def test_it_ends_with_the_first_loss_that_is_not_finite() -> None:
    trainer, _ = parabola()
    losses = ramp(trainer, Epochs(), [1e-3] * 5 + [1e30] * 20)
    assert len(losses) == 7 or not math.isfinite(losses[-1])
    assert all(map(math.isfinite, losses[:-1])) and len(losses) < 25


@pytest.mark.parametrize(
    ("losses", "away"),
    [
        ([1.0] * 50, False),
        ([1.0, 0.5, 0.2], False),
        ([1.0] * 20 + [3.9] * 200, False),
        ([1.0] * 20 + [4.5] * 200, True),
        ([1.0] * 20 + [9.0], False),  # one bad batch
        ([1.0] * 20 + [math.nan], True),
        ([math.inf], True),
        ([0.0] * 9, False),
    ],
)
def test_a_loss_has_run_away_at_four_times_its_least_running_mean(losses: list[float], away: bool) -> None:
    assert ran_away(losses) is away


# --- the rule


def curve(fall: float, end: float = 0.0, noise: float = 0.0, seed: int = 0) -> tuple[Floats, Floats]:
    """Rates up to 10 ** end; a loss of 2 that falls by this share round 1e-3 and runs away from 1e-1 on."""
    x_N = np.linspace(-6, end, 300)
    loss_N = 2 - 2 * fall / (1 + np.exp(-4 * (x_N + 3))) + 10 ** (3 * (x_N + 1))
    rng = np.random.default_rng(seed)
    loss_N = loss_N + noise * rng.normal(size=len(x_N))
    length = next((n for n in range(1, len(x_N) + 1) if ran_away(loss_N[:n])), len(x_N))
    return 10.0 ** x_N[:length], loss_N[:length]


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("fall", [0.0, 0.3, 0.8])
def test_a_loss_that_runs_away_gives_a_20th_of_that_rate_also_where_chance_hides_its_fall(
    fall: float, noise: float
) -> None:
    for seed in range(5):
        lr, why = suggest(*curve(fall, noise=noise, seed=seed))
        assert lr is not None and 3e-3 < lr < 1.5e-2 and why.startswith("1/20 of the rate at which the loss ran away")


def early(fall: float) -> tuple[Floats, Floats]:
    """A loss of 2 that falls by this share round 1e-4, comes back round 2e-3 and runs away from 1e-1 on."""
    lr_N, loss_N = curve(0.0)
    x_N = np.log10(lr_N)
    hollow_N = 1 / (1 + np.exp(-6 * (x_N + 4))) - 1 / (1 + np.exp(-6 * (x_N + 2.7)))
    return lr_N, loss_N - 2 * fall * hollow_N


@pytest.mark.parametrize("fall", [0.15, 0.3, 0.8])
def test_a_loss_that_fell_and_rose_before_it_ran_away_gives_no_more_than_the_rate_with_the_lowest(fall: float) -> None:
    lr_N, loss_N = early(fall)
    for losses_N in (loss_N, np.append(loss_N[:-1], np.nan)):
        lr, why = suggest(lr_N, losses_N)
        lowest = lr_N[np.argmin(loss_N)]
        assert lr == pytest.approx(lowest, rel=0.15) and 3e-4 < lowest < 1e-3
        assert why.startswith("the rate with the lowest loss; 1/20 of ") and why.endswith("is above it")


@pytest.mark.parametrize("fall", [0.0, 0.04, 0.08])
def test_a_fall_of_less_than_a_tenth_does_not_bound_what_is_suggested(fall: float) -> None:
    lr, why = suggest(*early(fall))
    assert lr is not None and lr > 3e-3 and why.startswith("1/20 of the rate")


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
def test_where_it_does_not_run_away_a_clear_minimum_gives_a_tenth_of_its_rate(noise: float) -> None:
    for seed in range(5):
        lr, why = suggest(*curve(0.7, end=-0.9, noise=noise, seed=seed))
        assert lr is not None and 3e-4 < lr < 6e-3 and why.startswith("a tenth of the rate with the lowest loss")


def test_a_loss_that_only_falls_gives_a_rate_below_the_highest_and_says_so() -> None:
    lr, why = suggest(*curve(0.9, end=-2))
    assert lr == pytest.approx(1e-3, rel=0.05) and "still fell; set optim.lr to it and repeat" in why


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.8])
def test_a_loss_that_neither_falls_nor_runs_away_gives_none(noise: float) -> None:
    for seed in range(5):
        loss_N = 3 + noise * np.random.default_rng(seed).normal(size=300)
        lr, why = suggest(np.geomspace(1e-9, 1e-3, 300), loss_N)
        assert lr is None and "neither fell nor ran away from 1.0e-09 to 1.0e-03" in why


def test_a_loss_that_becomes_nan_at_once_has_run_away_there() -> None:
    lr_N, loss_N = curve(0.7, end=-2)
    lr, why = suggest(lr_N, np.append(loss_N[:-1], np.nan))
    assert lr == pytest.approx(0.01 / 20 * 10 ** (-10 * 4 / 299), rel=0.1) and "ran away" in why


def test_huge_and_tiny_losses_and_rates_are_read_alike() -> None:
    lr_N, loss_N = curve(0.7)
    base, _ = suggest(lr_N, loss_N)
    assert base is not None
    for scale in (1e-20, 1e20):
        assert suggest(lr_N, loss_N * scale)[0] == base
        assert suggest(lr_N * scale, loss_N)[0] == pytest.approx(base * scale)


def test_smoothing_does_not_lag_and_keeps_a_level() -> None:
    assert smoothed([3.0] * 20) == pytest.approx([3.0] * 20)
    mean_N = smoothed([0.0] * 30 + [1.0] * 30)
    assert mean_N[29] == pytest.approx(1 - mean_N[30]) and 0.4 < mean_N[29] < 0.5
    assert np.isnan(smoothed([1.0, 1.0, math.nan])[2]) and smoothed([1.0, 1.0, math.nan])[0] == 1


# --- whole


def short(monkeypatch: pytest.MonkeyPatch, steps: int = 20) -> None:
    monkeypatch.setattr(sweep, "STEPS", steps)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classification", pytest.param("detection", marks=pytest.mark.slow)])
def test_the_table_has_rate_loss_and_smoothed_loss_of_each_step(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short(monkeypatch)
    cfg = make_plan(override(request.getfixturevalue(kind), {"run.name": "other"})).cfg
    said: list[dict[str, float]] = []
    range_test(cfg, tmp_path, WorkerGroup(), said.append)
    lr_N, loss_N, mean_N = read(tmp_path / sweep.TABLE)
    assert said == [{"steps": float(len(lr_N))}] and 10 <= len(lr_N) <= 20
    assert lr_N[0] == pytest.approx(sweep.LOWEST * cfg.optim.lr, rel=1e-4)
    assert mean_N == pytest.approx(smoothed(loss_N), rel=1e-4, nan_ok=True)
    assert (tmp_path / sweep.TABLE).stat().st_mode & 0o777 == 0o640


def test_the_rates_of_the_table_are_optim_lr_and_those_of_the_steps_are_scaled_by_the_batch(
    classification: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def note(trainer: Trainer, batches: Any, lr_N: Floats) -> list[float]:
        seen.extend(lr_N)
        return [1.0] * 20

    short(monkeypatch)
    monkeypatch.setattr(sweep, "ramp", note)
    cfg = make_plan(override(classification, {"optim.lr_batch_size": 2})).cfg
    range_test(cfg, tmp_path, WorkerGroup(), lambda metrics: None)
    assert cfg.lr_scale == 4
    assert seen == pytest.approx((4 * read(tmp_path / sweep.TABLE)[0]).tolist(), rel=1e-4)


@pytest.mark.parametrize("losses", [[math.nan], [1.0] * 5 + [math.inf]])
def test_a_loss_that_is_not_finite_from_the_start_is_said_with_what_to_look_at(
    losses: list[float], classification: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "ramp", lambda trainer, batches, lr_N: losses)
    cfg = make_plan(classification).cfg
    with pytest.raises(NonFiniteLoss, match=r"the loss is (nan|inf) at step \d already, .* look at the data"):
        range_test(cfg, tmp_path, WorkerGroup(), lambda metrics: None)
    assert not (tmp_path / sweep.TABLE).exists()
