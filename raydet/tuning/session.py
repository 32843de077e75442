"""One session of a search: a Ray, Ray Tune on it, what is shown meanwhile, what is written at the end."""

import signal
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
from raydet.tuning.search.study import Record
from raydet.tuning.settings import Setting, with_cpus
from raydet.tuning.trials.folders import donations_of, repeats_of, stages
from raydet.tuning.trials.rows import Search

if TYPE_CHECKING:
    from raydet.tuning.search.searcher import Again, Feed, Last, Proposals
    from raydet.tuning.search.stopping import Ends

_TRIAL_BYTES = 256 * 2**20
"""Memory that a trial's own actor reserves: it must reserve something, and a CPU would be one less for its workers."""


_HEAD = "node:__internal_head__"
"""A resource of which every cluster has 1.0. Ray Train's own actors take some, 0.001 each."""


class Driver:
    """One session of a search."""

    def __init__(self, setting: Setting, out: TextIO) -> None:
        self.given, self.setting, self.out = setting, reserving(setting), out
        self.record = Record(self.setting)
        self.spent = self.record.spent()
        """Wall time of earlier sessions."""
        self.concurrent = setting.concurrent or 1
        self.proposals: Proposals | None = None
        self.last: Last | None = None
        self.ends: Ends | None = None
        self._started = clock()

    def run(self) -> Search:
        """Try what is left to be tried, write what was found, and return it.

        Raises:
            KeyboardInterrupt: after that, where it was interrupted.
        """
        try:
            if self.record.complete() and self.cut_short() is None and not self.unrepeated():
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
        setting, proposals = self.setting, self.proposals
        with self.record.lock:
            live = frozenset() if proposals is None else proposals.live_numbers()
            rows = list(self.record.rows(live))
            if proposals is not None:
                rows = [proposals.costed(row) if row.number in live else row for row in rows]
            if self.last is not None:
                rows = [self.last.shown(row) for row in rows]
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
            ended=None if self.ends is None else self.ends.reason,
        )

    def _save(self) -> Search:
        """Write all but the figures: what was spent, best.json, trials.csv."""
        if self.proposals is not None:
            self.record.spent(self.spent + clock() - self._started)
            self.proposals.keep()
        search = self.read()
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
            (number, seed, self.record.params(number))
            for seed in range(first, first + self.setting.confirm)
            for number in sorted({1, best.number})
            if (number, seed) not in done
        ]

    def _on_ray(self) -> None:
        from raydet.tuning.search.schedulers import make_scheduler
        from raydet.tuning.search.searcher import Last, Proposals, Repeats
        from raydet.tuning.search.stopping import Ends, deadline

        self.setting = self.record.setting = placed(self.setting)
        self.concurrent = self._room()
        at = deadline(self.setting.budget_s, self.spent)
        self.ends = Ends(self.read, self.setting.patience, at, self._save)
        self.ends.feed = self.proposals = Proposals(self.record, self._at_once(), self.ends.may_start)
        with interrupts(self.ends, self._save), watched(Show(self.read, self.out, self.setting.budget_s).follow):
            known = [row for row in self.record.rows() if row.state != "failed"]
            if not self.record.complete() and not self.ends.stop_all():
                self._tune(self.proposals, make_scheduler(self.setting, known))
            cut = None if self.ends.over or not self.ends.may_start() else self.cut_short()
            if cut is not None:
                self.last = Last(self.record, cut)
                self._again(self.last, f"last      trial {cut}, stopped early, is the best: it goes on")
            wanted = [] if self.ends.over else self.unrepeated()
            if wanted:
                repeats = Repeats(wanted, self.concurrent)
                self._again(repeats, f"repeats   {len(wanted)} runs of default and best with other seeds")
        if self.ends.interrupted:
            signal.raise_signal(self.ends.interrupted)  # for whoever answered it before
            raise KeyboardInterrupt
        if self.ends.feed.full is not None:
            path, need, free = self.ends.feed.full
            raise StorageFull(Path(path), need, free)

    def _again(self, feed: "Again", message: str) -> None:
        """Let all that `feed` hands out run to its end, and say what went wrong."""
        from raydet.tuning.search.schedulers import make_scheduler

        print(message, file=self.out, flush=True)
        self._tune(feed, make_scheduler(replace(self.setting, algorithm="tpe", scheduler="none")))
        for error in feed.errors:
            print(f"failed    {error}", file=self.out, flush=True)

    def _at_once(self) -> int:
        """Return how many trials Ray Tune is to have: of PBT all, for it lets them take turns."""
        return self.setting.num_samples if self.setting.algorithm == "pbt" else self.concurrent

    def _reserved(self, feed: "Feed") -> dict[str, float]:
        """Return what a trial's own actor reserves; where more wait than have room, so much that the others wait."""
        most, reserved = self.concurrent, {"memory": float(_TRIAL_BYTES)}
        return reserved if feed.concurrent <= most else reserved | {_HEAD: (1 / most + 1 / (most + 1)) / 2}

    def _room(self) -> int:
        """Return how many trials to train at a time."""
        nodes, cfg = machines(), self.setting.cfg
        most = max(1, room(nodes, per_worker(cfg, nodes, False)) // cfg.scaling.worker_range[1])
        asked = self.setting.concurrent
        if asked is not None and asked > most:
            print(f"note      room for {most} trials at a time, not {asked}", file=self.out, flush=True)
        return min(most, asked or most, self.setting.num_samples)

    def _tune(self, feed: "Feed", scheduler: Any) -> None:
        """Let Ray Tune run what `feed` hands out."""
        from ray import tune

        from raydet.tuning.search.searcher import Clocks
        from raydet.tuning.trials.trial import Trial

        assert self.ends is not None
        self.ends.feed = feed
        folder = self.setting.folder / "ray"
        name = f"tune_{1 + len(list(folder.glob('tune_*'))):03d}"
        trainable = tune.with_parameters(Trial, setting=self.setting)
        tuner = tune.Tuner(
            tune.with_resources(trainable, self._reserved(feed)),
            tune_config=tune.TuneConfig(
                search_alg=feed,
                scheduler=scheduler,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(folder),
                verbose=0,
                stop=self.ends,
                failure_config=tune.FailureConfig(max_failures=self.setting.cfg.run.max_failures),
                callbacks=[Clocks(feed)],
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
