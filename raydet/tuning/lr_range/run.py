"""The learning-rate range test as a user runs it: on the machines of a run, with a table, a figure and a suggestion.

See `raydet.tuning.lr_range.sweep` for what is done in the workers, the rule and its sources.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from raydet.config import Config, override
from raydet.distributed import WorkerGroup
from raydet.driver.plan import Plan, make_plan
from raydet.driver.ray_session import check_scaling, ray_session
from raydet.driver.ray_trainer import Cancel, attempt
from raydet.driver.run_folder import claimed
from raydet.exceptions import ConfigError, LostWorkers, RunFailed
from raydet.io.files import FILE_MODE
from raydet.training.precision import prepare_device
from raydet.tuning.lr_range import sweep
from raydet.tuning.lr_range.sweep import Floats
from raydet.visualization.charts import figure_file

FIGURE = "lr_range.png"
_OURS = {sweep.TABLE, FIGURE, "config.json", "env.json", "ray", ".lock"}
_SUFFIX = "-lr-range"


@dataclass(frozen=True)
class RangeResult:
    """What a range test found."""

    suggestion: float | None
    """A value for optim.lr; None: nothing can be said."""
    why: str
    """What the suggestion follows from, or why there is none."""
    table: Path
    """CSV: lr (as optim.lr), loss, smoothed."""
    figure: Path


def lr_range_test(cfg: Config, out: TextIO | None = None) -> RangeResult:
    """Train a few hundred steps with a growing learning rate, and return what it should be.

    The run's name is run.name with -lr-range behind it; an earlier test of that name is replaced.

    Args:
        out: where lines are shown. None: standard error.

    Raises:
        ConfigError: a value that cannot be used, or something else lies under the name. DataError, WeightsError: found
            before a worker is taken. NonFiniteLoss: the loss was not finite from the start.
        Refused: another process is at it. RunFailed: workers were lost.
    """
    out = out or sys.stderr
    name = cfg.run.name[: 64 - len(_SUFFIX)] + _SUFFIX
    plan = make_plan(override(cfg, {"run.name": name, "run.early_stop": None}), fresh=True)
    _check_folder(plan.folder)
    if plan.cfg.scaling.worker_range[1]:
        check_scaling(plan.cfg)
    lr = plan.cfg.optim.lr
    with claimed(plan):
        table, figure = plan.folder / sweep.TABLE, plan.folder / FIGURE
        for path in (table, figure):
            path.unlink(missing_ok=True)
        first, last = sweep.LOWEST * lr, sweep.HIGHEST * lr
        what = f"at most {sweep.STEPS} steps of {plan.cfg.global_batch} images, optim.lr {first:.1e} to {last:.1e}"
        _say(out, "range test", what)
        _train(plan)
        lr_N, loss_N, _ = sweep.read(table)
        suggestion, why = sweep.suggest(lr_N, loss_N)
        draw(figure, lr_N, loss_N, lr, suggestion, why)
    _say(out, "losses", str(table))
    _say(out, "figure", str(figure))
    _say(out, "suggestion", "none" if suggestion is None else f"optim.lr {suggestion:g}; configured is {lr:g}")
    _say(out, "for", why)
    return RangeResult(suggestion, why, table, figure)


def _say(out: TextIO, title: str, text: str) -> None:
    print(f"{title:<10}  {text}", file=out, flush=True)


def _check_folder(folder: Path) -> None:
    """Refuse a folder in which more lies than a range test leaves."""
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    other = sorted(name for name in found - _OURS if not name.startswith(".tmp-"))
    if other:
        raise ConfigError(f"run.name: {folder} holds {other[0]}, so it is no range test; choose another run.name")


def _train(plan: Plan) -> None:
    cfg = plan.cfg
    if cfg.scaling.worker_range[1] == 0:
        workers = WorkerGroup(device=prepare_device(cfg))
        sweep.range_test(cfg, plan.folder, workers, lambda metrics: None, cfg.scaling.threads)
        return
    with ray_session(cfg) as session:
        try:
            attempt(plan, session, Cancel(), sweep.range_test)
        except LostWorkers as lost:
            raise RunFailed(f"{lost}\nRay's logs: {session.logs}\nThe same command starts the test again") from lost


def draw(path: Path, lr_N: Floats, loss_N: Floats, configured: float, suggestion: float | None, why: str) -> None:
    """Draw the loss over the learning rate, with what is configured and what is suggested; one PNG."""
    from matplotlib.ticker import LogLocator

    with figure_file(path, (7, 4.5)) as figure:
        axes = figure.subplots()
        axes.plot(lr_N, loss_N, color="#9db7d8", lw=0.8, label="loss of a step")
        axes.plot(lr_N, sweep.smoothed(loss_N), color="#3465a4", lw=2, label="smoothed")
        axes.axvline(configured, color="#777777", lw=1.2, ls="--", label=f"configured {configured:g}")
        if suggestion is not None:
            axes.axvline(suggestion, color="#e07b39", lw=2, label=f"suggested {suggestion:g}")
        finite_N = loss_N[np.isfinite(loss_N)]
        if finite_N.min() > 0:
            axes.set_yscale("log")  # else what ran away would press the rest flat
            axes.set_ylim(finite_N.min() / 1.1, min(finite_N.max(), 20 * float(np.median(finite_N))) * 1.3)
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
            axes.yaxis.set_minor_formatter("{x:g}")
        axes.set_xscale("log")
        axes.set(xlabel="optim.lr", ylabel="training loss")
        axes.set_title(f"Learning-rate range test. Suggestion: {why}", loc="left", fontsize=9, wrap=True)
        axes.legend(frameon=False, loc="upper left")
    path.chmod(FILE_MODE)
