"""One trial on Ray Tune: a `fit` in the background, whose evaluations are handed on one by one, in order.

A Trainable and no function, for Tune then tells it of its end: the workers of a stopped function would be killed
without their placement group being given back (ray 2.60). The trial's actor trains nothing; the run has Ray Train
workers of its own. What the run has written to its folder is read from there, as the driver's own view does.
"""

import json
import math
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune

from raydet.config import Config, load, override, to_dict
from raydet.driver.fit import Result, fit
from raydet.driver.ray_trainer import Cancel, release
from raydet.exceptions import Cancelled, NonFiniteLoss, Refused, StorageFull
from raydet.io.files import make_folder, replace_file
from raydet.runs import checkpoint_store
from raydet.runs.layout import CHECKPOINTS
from raydet.search_spaces.checked import own_point
from raydet.tuning.objectives import measure
from raydet.tuning.settings import Setting
from raydet.tuning.trials.folders import DONATION, donations_of, evaluations, read_curve, run_name, stages

POLL_S = 0.25
_WAIT_S = 60.0
"""How long a trial waits for its folder: the process that had it before may be on its way out."""


class Background:
    """A `fit` in a thread of its own."""

    def __init__(self, cfg: Config, objectives: tuple[str, ...]) -> None:
        self.cfg = cfg
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.values: dict[str, float] = {}
        self._objectives, self._cancel = objectives, Cancel()
        self._thread = threading.Thread(target=self._run, name="raydet-trial", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it still trains."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End it, and wait until its folder is free."""
        self._cancel()
        self._thread.join(_WAIT_S)

    def _run(self) -> None:
        deadline = time.monotonic() + _WAIT_S
        while True:
            try:
                with open(os.devnull, "w") as nowhere:
                    self.result = fit(self.cfg, out=nowhere, cancel=self._cancel)
                self.values = measure(self.result.config, self._objectives)
            except Refused as error:  # the folder is held
                if time.monotonic() < deadline and not self._cancel.called:
                    time.sleep(POLL_S)
                    continue
                self.error = error
            except BaseException as error:  # handed on by the trial's own thread
                self.error = error
            return


class Trial(tune.Trainable):  # type: ignore[misc]
    """Trains the run that the trial's id names; the trial's values are Tune's `config`."""

    def setup(self, config: Mapping[str, Any], *, setting: Setting) -> None:
        """Record what to do; training starts with the first step, after Tune may have named a donor."""
        number, _, seed = str(self.trial_id).partition("-seed")
        self.number, self.seed = int(number), int(seed) if seed else None
        self.params, self.setting = dict(config), setting
        self.reported = 0
        """Epochs done at the last evaluation that was handed on."""
        self.run: Background | None = None

    def step(self) -> dict[str, Any]:
        """Return the next evaluation, or how the run has ended.

        Its keys: score (the best so far), epoch, finished; where it went wrong failed (why) and diverged.
        """
        if self.run is None and not (self.setting.folder / "search.json").is_file():
            place = f"run.storage_path={self.setting.cfg.run.storage_path}"
            return self._failed(f"ConfigError: {place}: on {os.uname().nodename} this is another folder")
        if self.run is None:
            self.run = self._start()
        while True:
            running = self.run.running  # asked first: what is written before its end is read below
            found = self._next()
            last = found is not None and found["epoch"] >= self.run.cfg.schedule.total_epochs
            if found is not None and not last:
                return found
            if not running:
                return self._end(found)
            time.sleep(POLL_S)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Copy the run's newest checkpoint, for PBT to let another trial continue from; and whose it is."""
        epoch = _copy_newest(self._folder(), Path(checkpoint_dir))
        whose = {"number": self.number, "params": self.params, "epoch": epoch}
        Path(checkpoint_dir, "whose.json").write_text(json.dumps(whose))

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Continue from another trial's checkpoint; from its own, which its folder has anyway, as without."""
        whose = json.loads(Path(checkpoint_dir, "whose.json").read_text())
        self.reported = whose["epoch"]
        if whose["number"] == self.number and whose["params"] == self.params:
            return
        known = donations_of(stages(self.setting, self.number))[-1:]
        if [(one.donor, one.epoch, one.after) for one in known] != [(whose["number"], whose["epoch"], self.params)]:
            clone(self.setting, self.number, whose, self.params, Path(checkpoint_dir))

    def cleanup(self) -> None:
        """End the run and give back its machines; called by Tune whenever the trial stops."""
        if self.run is not None:
            self.run.stop()

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Say that an actor serves one trial only."""
        return False

    def _folder(self) -> Path:
        if self.seed is not None:
            return self.setting.folder / "trials" / run_name(self.number, seed=self.seed)
        return stages(self.setting, self.number)[-1]

    def _start(self) -> Background:
        folder = self._folder()
        release(folder)  # of this trial's actor before this one, if that was killed
        if self.setting.algorithm == "pbt" and not self.reported:  # resumed: PBT starts again, and wants the last only
            self.reported = max((int(line["epoch"]) for line in evaluations(folder)), default=0) - 1
        return Background(self.setting.trial(folder.name, self.params, self.seed), self.setting.objectives)

    def _next(self) -> dict[str, Any] | None:
        """Return the first evaluation that was not handed on yet; the score is the best up to there."""
        best = -math.inf
        for epoch, score in self._curve():
            best = max(best, score)
            if epoch > self.reported:
                self.reported = epoch
                return {"score": best, "epoch": epoch, "finished": False}
        return None

    def _curve(self) -> list[tuple[int, float]]:
        """Return the run's evaluations, but what it took over with another's weights."""
        known = donations_of(stages(self.setting, self.number)) if self.seed is None else []
        since = known[-1].epoch if known else 0
        return [(epoch, score) for epoch, score in read_curve(self._folder(), self.setting.score)[0] if epoch > since]

    def _end(self, found: dict[str, Any] | None) -> dict[str, Any]:
        assert self.run is not None
        error = self.run.error
        if isinstance(error, Cancelled):
            raise error
        said = found or {"epoch": self.reported}
        if error is None:
            best = max((score for _, score in self._curve()), default=None)
            said |= {"score": best, "finished": True, "done": True}
            return said | self.run.values  # flat, as Tune makes them anyway
        if isinstance(error, StorageFull):
            return {"epoch": self.reported, "full": (str(error.path), error.need_bytes, error.free_bytes), "done": True}
        diverged = isinstance(error, NonFiniteLoss)  # all else says nothing of the trial's values
        why = " ".join(f"{'' if diverged else type(error).__name__ + ': '}{error}".split())
        return said | self._failed(why, diverged)

    def _failed(self, why: str, diverged: bool = False) -> dict[str, Any]:
        return {"epoch": self.reported, "failed": why, "diverged": diverged, "finished": False, "done": True}


def _copy_newest(folder: Path, into: Path) -> int:
    """Copy a run's newest checkpoint and metrics, which the run may remove meanwhile; return the epochs it has."""
    for _ in range(3):
        newest = checkpoint_store.newest(folder / CHECKPOINTS)
        if newest is None:
            break
        try:
            shutil.copytree(newest.path, into / newest.path.name)
            shutil.copy(folder / "metrics.jsonl", into)
            return newest.epoch
        except (OSError, shutil.Error):
            shutil.rmtree(into / newest.path.name, ignore_errors=True)
    return 0


def clone(setting: Setting, number: int, donor: Mapping[str, Any], params: Mapping[str, Any], source: Path) -> None:
    """Make the folder of a trial's next run, which continues from the donor's checkpoint in `source`.

    It is a run that was interrupted: `fit` finds its own configuration there, and another's weights.
    """
    runs = stages(setting, number)
    name = run_name(number, len(runs))
    folder = setting.folder / "trials" / name
    was = load(runs[-1] / "config.json")
    cfg = override(setting.space.config(was, dict(params)), {"run.name": name})
    make_folder(folder / CHECKPOINTS)
    for path in source.glob("step_*"):
        shutil.copytree(path, folder / CHECKPOINTS / path.name, dirs_exist_ok=True)
    lines = Path(source, "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["epoch"] <= donor["epoch"]]
    replace_file(folder / "metrics.jsonl", "".join(kept))
    replace_file(folder / "config.json", json.dumps(to_dict(cfg), indent=2) + "\n")
    before = own_point(was, setting.space.domains)
    reported = {"number": number, "epoch": donor["epoch"], "donor": donor["number"], "before": before, "after": params}
    replace_file(folder / DONATION, json.dumps(reported, indent=2) + "\n")
