"""Metric names, the clock, and RunLog: everything a run writes down while it goes.

log.json has the format and the names of NVIDIA's EfficientDet and ConvNets examples (dllogger, see
raydet.runs.dllogger_format), the misspelt `train_throughout` included: tools know them. Everywhere else the names are
ours, one set for both tasks.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, ParamSpec, TypeAlias, TypeVar

from raydet.io.clock import clock as clock
from raydet.io.clock import now as now
from raydet.io.files import make_folder
from raydet.io.jsonable import JSON, plain, strict
from raydet.runs.dllogger_format import DEFAULT, JsonBackend, Logger, Step, logger
from raydet.runs.environment import environment as environment
from raydet.runs.environment import redact as redact
from raydet.runs.environment import redact_text as redact_text
from raydet.runs.writers import CsvTable, EventFile, JsonLines

# Ours, the same for every task: metrics.jsonl, results.csv, TensorBoard, checkpoints.
TRAIN_LOSS: Final = "train_loss"
EVAL_LOSS: Final = "eval_loss"
LR: Final = "lr"
LOSS_SCALE: Final = "loss_scale"
IMAGES_PER_S: Final = "images_per_s"
EVAL_IMAGES_PER_S: Final = "eval_images_per_s"
STEP_S: Final = "step_s"
DATA_WAIT: Final = "data_wait"
BAD_IMAGES: Final = "bad_images"
EVAL_BAD_IMAGES: Final = "eval_bad_images"
MEMORY_BYTES: Final = "memory_bytes"
SKIPPED_STEPS: Final = "skipped_steps"
AP: Final = "AP"
AP50: Final = "AP50"
TOP1: Final = "top1"
TOP5: Final = "top5"

# NVIDIA's EfficientDet: log.json. train_loss and eval_loss are as ours.
MAP: Final = "map"
TRAIN_THROUGHPUT: Final = "train_throughout"
EVAL_THROUGHPUT: Final = "eval_throughput"
TRAIN_BATCH_TIME: Final = "train_batch_time"
EVAL_BATCH_TIME: Final = "eval_batch_time"

# NVIDIA's ConvNets: log.json.
CLS_TRAIN_LOSS: Final = "train.loss"
CLS_TRAIN_TOTAL_IPS: Final = "train.total_ips"
CLS_TRAIN_COMPUTE_IPS: Final = "train.compute_ips"
CLS_TRAIN_DATA_TIME: Final = "train.data_time"
CLS_TRAIN_COMPUTE_TIME: Final = "train.compute_time"
CLS_TRAIN_LR: Final = "train.lr"
CLS_TRAIN_GRAD_SCALE: Final = "train.grad_scale"
CLS_VAL_TOP1: Final = "val.top1"
CLS_VAL_TOP5: Final = "val.top5"
CLS_VAL_LOSS: Final = "val.loss"
CLS_VAL_TOTAL_IPS: Final = "val.total_ips"

_SECONDS: dict[str, JSON] = {"unit": "s", "format": ":.5f"}
_RATE: dict[str, JSON] = {"unit": "img/s", "format": ":.2f", "type": "THROUGHPUT"}
_LOSS: dict[str, JSON] = {"unit": None, "format": ":.5f", "type": "LOSS"}
_ACCURACY: dict[str, JSON] = {"unit": "%", "format": ":.2f", "type": "ACCURACY"}
_PLAIN: dict[str, JSON] = {"unit": None}

METADATA: Final[dict[str, dict[str, dict[str, JSON]]]] = {
    "detection": {
        EVAL_BATCH_TIME: {"unit": "s"},
        TRAIN_BATCH_TIME: {"unit": "s"},
        EVAL_THROUGHPUT: {"unit": "images/s"},
        TRAIN_THROUGHPUT: {"unit": "images/s"},
        **dict.fromkeys((EVAL_LOSS, TRAIN_LOSS, MAP, LR, LOSS_SCALE, DATA_WAIT), _PLAIN),
    },
    "classification": {
        **dict.fromkeys((CLS_TRAIN_LOSS, CLS_VAL_LOSS), _LOSS),
        **dict.fromkeys((CLS_TRAIN_COMPUTE_IPS, CLS_TRAIN_TOTAL_IPS, CLS_VAL_TOTAL_IPS), _RATE),
        **dict.fromkeys((CLS_TRAIN_DATA_TIME, CLS_TRAIN_COMPUTE_TIME), _SECONDS),
        **dict.fromkeys((CLS_TRAIN_LR, CLS_TRAIN_GRAD_SCALE), _PLAIN),
        **dict.fromkeys((CLS_VAL_TOP1, CLS_VAL_TOP5), _ACCURACY),
    },
}
"""Task -> metric -> dllogger metadata, as NVIDIA's examples declare them. Theirs of accuracy are percentages."""

_THEIRS: Final[dict[str, dict[str, str]]] = {
    "detection": {
        AP: MAP,
        IMAGES_PER_S: TRAIN_THROUGHPUT,
        STEP_S: TRAIN_BATCH_TIME,
        EVAL_IMAGES_PER_S: EVAL_THROUGHPUT,
    },
    "classification": {
        TRAIN_LOSS: CLS_TRAIN_LOSS,
        EVAL_LOSS: CLS_VAL_LOSS,
        LR: CLS_TRAIN_LR,
        LOSS_SCALE: CLS_TRAIN_GRAD_SCALE,
        IMAGES_PER_S: CLS_TRAIN_TOTAL_IPS,
        EVAL_IMAGES_PER_S: CLS_VAL_TOTAL_IPS,
        TOP1: CLS_VAL_TOP1,
        TOP5: CLS_VAL_TOP5,
    },
}


def nvidia(task: str, values: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return `values` under the names and in the units of NVIDIA's example; what it does not know stays as it is."""
    theirs = {_THEIRS[task].get(name, name): value for name, value in values.items()}
    if task == "detection":
        return theirs
    for name in (TOP1, TOP5):
        share = values.get(name)
        if isinstance(share, int | float):
            theirs[_THEIRS[task][name]] = 100.0 * share
    step_s, wait, rate = (values.get(name) for name in (STEP_S, DATA_WAIT, IMAGES_PER_S))
    if isinstance(step_s, float) and isinstance(wait, float):
        del theirs[STEP_S], theirs[DATA_WAIT]
        theirs |= {CLS_TRAIN_DATA_TIME: wait * step_s, CLS_TRAIN_COMPUTE_TIME: (1 - wait) * step_s}
        if isinstance(rate, float) and wait < 1:
            theirs[CLS_TRAIN_COMPUTE_IPS] = rate / (1 - wait)
    return theirs


Sink: TypeAlias = "JsonBackend | JsonLines | CsvTable | EventFile"
Args = ParamSpec("Args")
Made = TypeVar("Made")


class RunLog:
    """The records of one run, written by rank 0 only: log.json, metrics.jsonl, results.csv and TensorBoard's events.

    No failure of a file ever ends the training: the first one of each file is warned of and kept in `problems`, and
    later writes are still tried. Values may be numbers, numpy scalars or tensors; a tensor on a GPU is waited for.

    Args:
        folder: the run's folder, made where missing.
        task: detection or classification: which of NVIDIA's examples log.json follows.
        first_step: optimiser steps already done. What metrics.jsonl and results.csv hold for later steps is dropped, so
            no step ever stands twice; log.json is a diary and only grows.
    """

    def __init__(self, folder: Path, task: str, first_step: int = 0) -> None:
        self.problems: list[str] = []
        self._start, self._last_step = clock(), first_step
        self._task, self._detects, self._steps_per_epoch = task, task == "detection", 0
        self._try("the folder", make_folder, folder)
        self._json = self._try("log.json", JsonBackend, folder / "log.json")
        self._jsonl = self._try("metrics.jsonl", JsonLines, folder / "metrics.jsonl")
        self._csv = self._try("results.csv", CsvTable, folder / "results.csv")
        self._events = self._try("TensorBoard", EventFile, folder, first_step, _stamp())
        self._logger: Logger | None = None if self._json is None else logger(self._json)
        self._drop_after(first_step)
        for metric, metadata in METADATA[task].items():
            if self._logger is not None:
                self._try("log.json", self._logger.metadata, metric, metadata)

    def parameters(self, values: Mapping[str, object]) -> None:
        """Write the run's settings, secrets removed."""
        self._dllog("PARAMETER", redact(values))

    def train_step(self, epoch: int, steps_per_epoch: int, batch_index: int, data: Mapping[str, object]) -> None:
        """Write a training step's figures. `epoch` and `batch_index` count from 0: both are of what is under way."""
        values = values_of(data)
        if steps_per_epoch != self._steps_per_epoch:  # a classifier's lines do not say it, and readers want it
            self._steps_per_epoch = steps_per_epoch
            self._dllog("PARAMETER", {"steps_per_epoch": steps_per_epoch})
        self._dllog(
            (epoch, steps_per_epoch, batch_index) if self._detects else (epoch, batch_index), nvidia(self._task, values)
        )
        if self._events is not None:
            step = epoch * steps_per_epoch + batch_index + 1
            self._try("TensorBoard", self._events.write, {f"step/{k}": v for k, v in values.items()}, step, _stamp())

    def epoch(self, epoch: int, step: int, metrics: Mapping[str, object]) -> None:
        """Write an epoch's figures everywhere and wait until they are on the disk.

        Args:
            epoch: epochs done, 1 after the first. log.json counts from 0, as NVIDIA's files do, and gets epoch - 1.
            step: optimiser steps done. One that was written before replaces that line and all after it.
            metrics: our name -> number, accuracies as shares; NaN becomes null in metrics.jsonl.
        """
        values = values_of(metrics)
        if step <= self._last_step:
            self._drop_after(step - 1)
        self._last_step = step
        record: dict[str, JSON] = {"epoch": epoch, "step": step, "elapsed_s": round(clock() - self._start, 3), **values}
        self._dllog((epoch - 1,), nvidia(self._task, values))
        if self._jsonl is not None:
            self._try("metrics.jsonl", self._jsonl.write, {k: strict(v) for k, v in record.items()})
        if self._csv is not None:
            self._try("results.csv", self._csv.write, record)
        if self._events is not None:
            self._try("TensorBoard", self._events.write, values, step, _stamp())
        self.flush()

    def back_to(self, step: int) -> None:
        """Take back what was written of later steps, which are about to be repeated."""
        if step < self._last_step:
            self._drop_after(step)
            self._last_step = step

    def summary(self, metrics: Mapping[str, object]) -> None:
        """Write the whole run's figures to log.json."""
        self._dllog((), nvidia(self._task, values_of(metrics)))
        self.flush()

    def close(self) -> None:
        """Close all files. A run that is killed loses nothing by not getting here."""
        for name, sink in self._sinks():
            self._try(name, sink.close)

    def _dllog(self, step: Step, data: JSON) -> None:  # the one call site of dllogger
        if self._logger is not None and isinstance(data, dict):
            self._try("log.json", self._logger.log, step, data, DEFAULT)

    def _drop_after(self, step: int) -> None:
        if self._jsonl is not None:
            self._try("metrics.jsonl", self._jsonl.drop_after, step)
        if self._csv is not None:
            self._try("results.csv", self._csv.drop_after, step)

    def flush(self) -> None:
        """Wait until the disk has everything."""
        for name, sink in self._sinks():
            self._try(name, sink.flush)

    def _sinks(self) -> list[tuple[str, Sink]]:
        known = [
            ("log.json", self._json),
            ("metrics.jsonl", self._jsonl),
            ("results.csv", self._csv),
            ("TensorBoard", self._events),
        ]
        return [(name, sink) for name, sink in known if sink is not None]

    def _try(self, name: str, action: Callable[Args, Made], *args: Args.args, **kwargs: Args.kwargs) -> Made | None:
        try:
            return action(*args, **kwargs)
        except Exception as error:  # whatever a sink does, training goes on (docs/faults.md F24)
            if not any(problem.startswith(f"{name}: ") for problem in self.problems):
                self.problems.append(f"{name}: {type(error).__name__}: {redact_text(str(error))}")
                warnings.warn(f"the run continues without a complete {self.problems[-1]}", RuntimeWarning, stacklevel=4)
            return None


def values_of(data: Mapping[str, object]) -> dict[str, JSON]:
    """Return `data` with plain Python values."""
    return {name: plain(value) for name, value in data.items()}


def _stamp() -> float:
    return now().timestamp()
