"""One session of a search: a Ray, Ray Tune on it, what is shown meanwhile, what is written at the end."""

import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from raydet.driver.ray_session import ray_session
from raydet.driver.ray_trainer import release
from raydet.driver.resources import Resources, cores, per_worker, room, wanted_address
from raydet.exceptions import StorageFull
from raydet.io.clock import clock
from raydet.terminal.run_view import watched
from raydet.tuning.quiet import quiet_tune
from raydet.tuning.report.figures import draw
from raydet.tuning.report.hparams import write_hparams
from raydet.tuning.report.live_view import Show
from raydet.tuning.report.results import write
from raydet.tuning.report.summary import write_summary
from raydet.tuning.search.interrupts import interrupts
from raydet.tuning.search.study import SearchStudy
from raydet.tuning.settings import Setting, with_cpus
from raydet.tuning.trials.folders import devices, donations_of, repeats_of, run_name, stages
from raydet.tuning.trials.rows import Row, Search

if TYPE_CHECKING:
    from raydet.tuning.search.stopping import StopSearch
    from raydet.tuning.search.trial_queue import NewTrials, Reruns, TrialQueue

_TRIAL_BYTES = 256 * 2**20
"""Memory that a trial's own actor reserves: it must reserve something, and a CPU would be one less for its workers."""


_HEAD = "node:__internal_head__"
"""A resource of which every cluster has 1.0. Ray Train's own actors take some, 0.001 each."""


class Session:
    """One session of a search."""

    def __init__(self, setting: Setting, out: TextIO) -> None:
        self.given, self.setting, self.out = setting, reserving(setting), out
        self.study = SearchStudy(self.setting)
        self.spent = self.study.spent()
        """Wall time of earlier sessions."""
        self.concurrent = setting.concurrent or 1
        self.queue: TrialQueue | None = None
        self.stop: StopSearch | None = None
        self._started = clock()

    def run(self) -> Search:
        """Try what is left to be tried, write what was found, and return it.

        Raises:
            KeyboardInterrupt: after that, where it was interrupted.
        """
        try:
            if self.study.complete() and self.cut_short() is None and not self.unrepeated():
                print("finished  nothing left to try", file=self.out, flush=True)
            else:
                with ray_session(self.setting.cfg), quiet_tune():
                    self._on_ray()
        finally:
            search = self._save()
        draw(search)
        write_hparams(search)
        write_summary(search)
        return search

    def read(self) -> Search:
        """Return all that is known now; from any thread."""
        setting = self.setting
        with self.study.lock:
            rows = [self._now(row) for row in self.study.rows()]
        changing = rows if setting.algorithm == "pbt" else []
        donations = [d for row in changing for d in donations_of(stages(setting, row.number))]
        return Search(
            folder=setting.folder,
            cfg=self.given.cfg,
            space=setting.space,
            algorithm=setting.algorithm,
            scheduler="pbt" if setting.algorithm == "pbt" else setting.scheduler,
            score=setting.score,
            objectives=setting.objectives,
            num_samples=setting.num_samples,
            concurrent=self.concurrent,
            device="GPU" if setting.cfg.scaling.use_gpu else "CPU",
            rows=tuple(rows),
            repeats=repeats_of(setting),
            donations=tuple(sorted(donations, key=lambda d: (d.epoch, d.number))),
            seconds=self.spent + clock() - self._started,
            ended=None if self.stop is None else self.stop.reason,
        )

    def _now(self, row: Row) -> Row:
        """Return the row with what its trial has cost by now, if Ray Tune has it."""
        name, queue = run_name(row.number), self.queue
        if queue is None or name not in queue.live:
            return row
        seconds = queue.seconds(name)
        hours = seconds / 3600 * devices(self.setting)
        return replace(
            row, seconds=seconds, device_hours=hours, state="running" if name in queue.running() else row.state
        )

    def _save(self) -> Search:
        """Write all but the figures: what was spent, best.json, trials.csv."""
        search = self.read()
        if self.queue is not None:
            with self.study.lock:
                self.study.spent(search.seconds)
                for number in self.study.unfinished():
                    if run_name(number) in self.queue.live:
                        self.study.keep(number, self.queue.seconds(run_name(number)))
        write(search)
        return search

    def cut_short(self) -> int | None:
        """Return the trial that was stopped early and has done better than all that were not; None if there is none."""
        rows = self.read().rows
        stopped = {row.number: row.score for row in rows if row.state == "stopped" and row.score is not None}
        finished = max((row.score or 0.0 for row in rows if row.state == "finished"), default=0.0)
        best = max(stopped, key=lambda number: stopped[number], default=None)
        return best if best is not None and stopped[best] > finished else None

    def unrepeated(self) -> list[tuple[int, int, dict[str, Any]]]:
        """Return number, seed and values of the runs that --confirm asks for and that are not there."""
        best = self.read().best
        if best is None or best.score is None or not self.setting.confirm:
            return []
        done = {(repeat.number, repeat.seed) for repeat in repeats_of(self.setting)}
        first = self.setting.cfg.run.seed + 1
        return [
            (number, seed, self.study.params(number))
            for seed in range(first, first + self.setting.confirm)
            for number in sorted({1, best.number})
            if (number, seed) not in done
        ]

    def _on_ray(self) -> None:
        from raydet.tuning.search.schedulers import make_scheduler
        from raydet.tuning.search.stopping import StopSearch, deadline
        from raydet.tuning.search.trial_queue import NewTrials, NextTrial, Reruns

        self.setting = self.study.setting = placed(self.setting)
        self.concurrent = self._room()
        at = deadline(self.setting.budget_s, self.spent)
        self.stop = stop = StopSearch(self.read, self.setting.patience, at, self._save)
        with interrupts(stop, self._save), watched(Show(self.read, self.out, self.setting.budget_s).follow):
            ended = [row for row in self.study.rows() if row.state not in ("failed", "waiting")]
            if not self.study.complete() and not stop.stop_all():
                new = NewTrials(self.study, stop.may_start)
                self._tune(new, self._at_once(), make_scheduler(self.setting, ended))
            cut = None if stop.over or not stop.may_start() else self.cut_short()
            if cut is not None:
                self._finish(cut)
            wanted = [] if stop.over else self.unrepeated()
            if wanted:
                runs = [NextTrial(run_name(number, seed=seed), params) for number, seed, params in wanted]
                self._rerun(Reruns(runs), f"repeats   {len(wanted)} runs of default and best with other seeds")
        if stop.interrupted:
            signal.raise_signal(stop.interrupted)  # for whoever answered it before
            raise KeyboardInterrupt
        if self.queue is not None and self.queue.full is not None:
            path, need, free = self.queue.full
            raise StorageFull(Path(path), need, free)

    def _finish(self, number: int) -> None:
        """Train a trial that was stopped early to its end."""
        from raydet.tuning.search.trial_queue import NextTrial, Reruns

        def ended(result: Mapping[str, Any], seconds: float) -> None:
            with self.study.lock:
                self.study.end_resumed(number, seconds, bool(result.get("finished")))

        run = NextTrial(run_name(number), self.study.params(number), self.study.seconds(number))
        self.study.resume(number)
        self._rerun(Reruns([run], ended), f"last      trial {number}, stopped early, is the best: it continues")

    def _rerun(self, runs: "Reruns", message: str) -> None:
        """Let all of `runs` run to their end, and say what went wrong."""
        from ray.tune.schedulers import FIFOScheduler

        print(message, file=self.out, flush=True)
        self._tune(runs, self.concurrent, FIFOScheduler())  # which stops none
        for error in runs.errors:
            print(f"failed    {error}", file=self.out, flush=True)

    def _at_once(self) -> int:
        """Return how many trials Ray Tune is to have: of PBT all, for it lets them take turns."""
        return self.setting.num_samples if self.setting.algorithm == "pbt" else self.concurrent

    def _reserved(self, queue: "TrialQueue") -> dict[str, float]:
        """Return what a trial's own actor reserves; where more wait than have room, enough that these do."""
        most, reserved = self.concurrent, {"memory": float(_TRIAL_BYTES)}
        return reserved if queue.concurrent <= most else reserved | {_HEAD: (1 / most + 1 / (most + 1)) / 2}

    def _room(self) -> int:
        """Return how many trials to train at a time."""
        nodes, cfg = machines(), self.setting.cfg
        most = max(1, room(nodes, per_worker(cfg, nodes, False)) // cfg.scaling.worker_range[1])
        asked = self.setting.concurrent
        if asked is not None and asked > most:
            print(f"note      room for {most} trials at a time, not {asked}", file=self.out, flush=True)
        return min(most, asked or most, self.setting.num_samples)

    def _tune(self, source: "NewTrials | Reruns", concurrent: int, scheduler: Any) -> None:
        """Let Ray Tune run what `source` has."""
        from ray import tune

        from raydet.tuning.search.trial_queue import TrialQueue
        from raydet.tuning.trials.trial import Trial

        assert self.stop is not None
        self.stop.queue = self.queue = queue = TrialQueue(source, concurrent)
        folder = self.setting.folder / "ray"
        name = f"tune_{1 + len(list(folder.glob('tune_*'))):03d}"
        trainable = tune.with_parameters(Trial, setting=self.setting)
        tuner = tune.Tuner(
            tune.with_resources(trainable, self._reserved(queue)),
            tune_config=tune.TuneConfig(
                search_alg=queue,
                scheduler=scheduler,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(folder),
                verbose=0,
                stop=self.stop,
                failure_config=tune.FailureConfig(max_failures=self.setting.cfg.run.max_failures),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=4),
            ),
        )
        tuner.fit()
        for path in self.setting.folder.glob("trials/*"):
            release(path)  # Tune waits five seconds for trials to end in order, and then kills them


def machines() -> list[Resources]:
    """Return what each machine of the Ray that was joined has."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def placed(setting: Setting) -> Setting:
    """Return the setting with the CPUs that each worker reserves, so that trials fill the GPUs and no CPU is short."""
    cfg, nodes = setting.cfg, machines()
    s = cfg.scaling
    if s.cpus_per_worker is not None:
        return setting
    slots = room(nodes, {"GPU": s.gpus_per_worker}) if s.use_gpu else None
    cpus = max(1, int(per_worker(cfg, nodes, False, slots)["CPU"]))
    return with_cpus(setting, cpus)


def _name(trial: Any) -> str:
    return f"trial_{trial.trial_id}"


def reserving(setting: Setting) -> Setting:
    """Return the setting with the CPUs that each worker reserves: on a machine's CPUs as few as it has threads.

    Several trials side by side use a machine better than one that has all of it: small nets gain little from threads.
    """
    s = setting.cfg.scaling
    if s.cpus_per_worker is not None or s.use_gpu or wanted_address(setting.cfg) is not None:
        return setting
    cpus = min(s.threads or 1, max(1, cores() // max(1, s.worker_range[1])))
    return with_cpus(setting, cpus)
