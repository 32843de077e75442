"""The learning-rate range test on one worker: one short training whose learning rate only grows. Knows no Ray.

Source: L. N. Smith, Cyclical Learning Rates for Training Neural Networks (2015), arXiv:1506.01186, section 3.3. The
exponential growth, the end where the loss has run away and the rule `minimum / 10` are those of fastai's lr_find. Its
mean lags behind by some 50 steps, half of its test; here the smoothing is as wide on both sides.

The suggestion is 1/20 of the rate at which the loss ran away. Where batches are small, as in the demos, no rate has
time to lower the loss before the next one: its minimum is chance, and so is its steepest descent. Where it runs away is
clear: on demo_classification (AdamW) at 0.21 to 0.29, for two seeds, one worker or two, 43 or 100 steps per factor of
10 and an optim.lr 30 times too high or too low. One epoch trains well there with 0.003 to 0.03; with SGD, where it ran
away at 1.1 to 1.4, with 0.03 to 0.1. Two epochs of demo_detection, where it ran away at 0.11, train best with 0.02,
half as well with 0.005 and 0.05. The factor is taken from these three and no better than one of 4. It is more than
for a fixed rate (Y. Bengio, 2012, arXiv:1206.5533: the best is near the largest that does not diverge), for a loss
needs steps to run away while the rate grows.

Where the loss did fall clearly, the suggestion is no more than the rate at which it was lowest: beyond it training does
harm already, as beyond Smith's upper bound. On easy toy data it was lowest, 0.82 of the start, at 0.004, and above the
start at 1/20 of where it ran away. fastai's tenth of the minimum is too low a bound: for demo_detection, lowest at
0.015 to 0.03, it is 0.0015 to 0.003, and best is 0.02. In twelve tests of demo_classification the loss fell by less
than 4 %, and its minimum lay anywhere from 1e-5 to 0.07: hence a fall of less than 10 % bounds nothing.
Given up: warm-up and schedule, which would hide what is measured; the EMA, which nobody scores.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raydet.config import Config, override
from raydet.data import Batch
from raydet.distributed import WorkerGroup
from raydet.exceptions import NonFiniteLoss
from raydet.io.files import replace_file
from raydet.training.loop import Batches
from raydet.training.state import State
from raydet.training.step import Trainer
from raydet.training.worker import set_up

TABLE = "lr_range.csv"
STEPS = 300
LOWEST, HIGHEST = 1e-3, 1e4
"""The range, in units of optim.lr: a value that is wrong by 30 has room enough on both sides."""
_BELOW = 20
_LEAST = 10
"""So many steps must have a finite loss, or there is nothing to be seen."""
_TOO_HIGH = 4.0
"""The loss has run away when it is so many times its minimum,"""
_MEMORY = 0.9
"""as a running mean."""
_WIDTH = 4.0
"""Standard deviation of the smoothing, in steps."""
_CLEAR = 0.9
"""A minimum is clear that is below this share of the loss at the start, and below what chance does to it."""
_CHANCE = 4.0
"""Standard errors of a smoothed loss that chance does not reach."""

Floats = npt.NDArray[np.float64]


def range_test(
    cfg: Config,
    folder: Path,
    workers: WorkerGroup,
    tell: Callable[[dict[str, float]], None],
    threads: int | None = None,
) -> None:
    """Train STEPS steps, or until the loss runs away; rank 0 writes lr_range.csv: lr (as optim.lr), loss, smoothed.

    Args:
        cfg, folder, workers, threads: as of `worker.train`.
        tell: called once, at the end, on every worker.

    Raises:
        NonFiniteLoss: the loss was not finite from the start.
    """
    cfg = override(cfg, {"ema.decay": None})
    made = set_up(cfg, folder, workers, threads)
    lr_N = np.geomspace(LOWEST * cfg.optim.lr, HIGHEST * cfg.optim.lr, STEPS)
    try:
        losses = ramp(Trainer(cfg, made.task, made.state, workers), made.loader, lr_N * cfg.lr_scale)
    finally:
        made.loader.close()
    if int(np.isfinite(losses).sum()) < _LEAST:
        raise NonFiniteLoss(
            f"the loss is {losses[-1]} at step {len(losses)} already, at optim.lr={lr_N[len(losses) - 1]:.1e}. Unless "
            f"optim.lr={cfg.optim.lr:g} is far too high, the learning rate is not to blame: look at the data (raydet "
            "check), model.weights and precision.mode"
        )
    if workers.rank == 0:
        write(folder / TABLE, lr_N[: len(losses)], losses)
    tell({"steps": float(len(losses))})


def ramp(trainer: Trainer, batches: Batches, lr_N: Sequence[float] | Floats) -> list[float]:
    """Return the loss at each learning rate, one step each, until it runs away; the same on every worker."""
    state, losses = trainer.state, list[float]()
    state.train()
    for lr, micro_batches in zip(lr_N, _endless(batches, state), strict=False):
        before = state.sums.clone()
        trainer.step(micro_batches, float(lr))
        loss = trainer.workers.sum_(state.sums - before)[0].item()
        losses.append(math.nan if trainer.finite.skipped_last() else loss)  # what was taken back adds nothing
        if ran_away(losses):
            break
    return losses


def _endless(batches: Batches, state: State) -> Iterator[list[Batch]]:
    while True:
        yield from batches.epoch(state.epoch)
        state.epoch, state.epoch_steps = state.epoch + 1, 0


def ran_away(losses: Sequence[float] | Floats) -> bool:
    """Whether the last loss is not finite, or the running mean of all is 4 times the least it has been."""
    mean, weight, least, now = 0.0, 0.0, math.inf, 0.0
    for loss in losses:
        mean, weight = _MEMORY * mean + (1 - _MEMORY) * loss, _MEMORY * weight + 1 - _MEMORY
        now = mean / weight
        least = min(least, now)
    return not math.isfinite(now) or now > _TOO_HIGH * least


def smoothed(loss_N: Sequence[float] | Floats) -> Floats:
    """Return the losses smoothed by a normal curve, as wide on both sides; at the ends by what there is of it.

    What is not finite stays so, and nothing else is changed by it.
    """
    values_N = np.array(loss_N, np.float64)
    finite_N = np.isfinite(values_N)
    steps_N = np.flatnonzero(finite_N)
    weights_NN = np.exp(-((steps_N[:, None] - steps_N) ** 2) / (2 * _WIDTH**2))
    values_N[finite_N] = weights_NN @ values_N[finite_N] / weights_NN.sum(axis=1)
    return values_N


def suggest(lr_N: Floats, loss_N: Floats) -> tuple[float | None, str]:
    """Return the learning rate to train with, of two digits, and what it follows from; None: nothing can be said.

    Args:
        lr_N, loss_N: as `ramp` gave them; all but the last loss are finite.
    """
    lowest = _clear_minimum(loss_N)
    if ran_away(loss_N):
        away = lr_N[max(0, len(lr_N) - 1 - round(1 / (1 - _MEMORY)))]  # a running mean comes so many steps late
        if lowest is not None and lr_N[lowest] < away / _BELOW:
            why = f"the rate with the lowest loss; 1/{_BELOW} of the rate at which it ran away, {away:.1e}, is above it"
            return _rounded(lr_N[lowest]), why
        return _rounded(away / _BELOW), f"1/{_BELOW} of the rate at which the loss ran away, {away:.1e}"
    if lowest is None:
        return None, f"the loss neither fell nor ran away from {lr_N[0]:.1e} to {lr_N[-1]:.1e}; try another optim.lr"
    if lowest == len(loss_N) - 1:
        why = f"a tenth of the highest rate, {lr_N[-1]:.1e}, where the loss still fell; set optim.lr to it and repeat"
        return _rounded(lr_N[-1] / 10), why
    return _rounded(lr_N[lowest] / 10), f"a tenth of the rate with the lowest loss, {lr_N[lowest]:.1e}"


def _clear_minimum(loss_N: Floats) -> int | None:
    """Return the step with the lowest smoothed loss; None where it is not clearly below the loss at the start."""
    mean_N = smoothed(loss_N)
    lowest = int(np.nanargmin(mean_N))
    first = max(5, len(loss_N) // 10)
    start, spread = float(np.median(loss_N[:first])), float((loss_N - mean_N)[:first].std())
    error = spread / math.sqrt(2 * math.sqrt(math.pi) * _WIDTH)  # so many steps' mean is the smoothed loss
    return lowest if mean_N[lowest] < min(_CLEAR * start, start - _CHANCE * error) else None


def _rounded(lr: float) -> float:
    return float(f"{lr:.1e}")


def write(path: Path, lr_N: Floats, losses: Sequence[float]) -> None:
    """Write the table."""
    rows = zip(lr_N.tolist(), losses, smoothed(losses).tolist(), strict=True)
    replace_file(path, "lr,loss,smoothed\n" + "".join(f"{lr:.6g},{loss:.6g},{mean:.6g}\n" for lr, loss, mean in rows))


def read(path: Path) -> tuple[Floats, Floats, Floats]:
    """Return the columns of a table."""
    table_N3 = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    return table_N3[:, 0], table_N3[:, 1], table_N3[:, 2]
