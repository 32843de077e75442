"""A search before it starts: all its settings, checked. Nothing here starts Ray."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from raydet.config import Config, differences, from_dict, nearest, override, to_dict
from raydet.driver.continued_run import MAY_CHANGE, with_former_defaults
from raydet.driver.plan import absolute
from raydet.exceptions import ConfigError
from raydet.io.files import replace_file
from raydet.recipes import RECIPES, recipe
from raydet.search_spaces import Space, get, spelt
from raydet.tasks.build import score_name
from raydet.tuning.objectives import OBJECTIVES

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_BUDGET = re.compile("".join(rf"(?:([0-9]+(?:\.[0-9]+)?){unit})?" for unit in _UNITS))
_ALLOWED = "a time with its units, e.g. 2h, 90m, 1h30m, 45s, 1.5h or 2d"


def parse_budget(text: str) -> float:
    """Return the seconds that `text` stands for.

    Raises:
        ConfigError: no such time.
    """
    text = str(text)
    found = _BUDGET.fullmatch(text.strip().lower())
    parts = found.groups() if found is not None else ()
    seconds = sum(float(part or 0) * unit for part, unit in zip(parts, _UNITS.values(), strict=False))
    if 0 < seconds < math.inf:
        return seconds
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text.strip()):
        raise ConfigError(f"--budget {text}: of what unit? Write e.g. {text.strip()}m; allowed is {_ALLOWED}")
    raise ConfigError(f"--budget must be {_ALLOWED}; larger units first, more than nothing; got {text!r}")


ALGORITHMS = ("tpe", "random", "pbt")
SCHEDULERS = ("asha", "hyperband", "none")
REDUCTION = 4
"""Of the trials at a rung one in 4 continues, and the next rung is 4 times later (as in arXiv:1810.05934)."""

_MAY_DIFFER = MAY_CHANGE - {"run.name"}
"""As of a run, but for the name: the record is kept under it."""
_CHANGES_IN_A_RUN = ("optim", "augment", "loss", "ema")
"""Sections that PBT may change in the middle of a run: nothing a checkpoint holds depends on them."""
_FIXED_IN_A_RUN = ("optim.name", "optim.batch_size", "optim.lr_batch_size")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """The settings of a search."""

    cfg: Config
    """Trial 1, with absolute paths; run.name is the search's."""
    space: Space
    num_samples: int
    algorithm: str = "tpe"
    scheduler: str = "asha"
    objectives: tuple[str, ...] = ()
    concurrent: int | None = None
    budget_s: float | None = None
    confirm: int = 0
    patience: int | None = None
    warm_start: Path | None = None

    @property
    def folder(self) -> Path:
        """The search's folder."""
        return Path(self.cfg.run.storage_path) / self.cfg.run.name

    @property
    def score(self) -> str:
        """Name of the score."""
        return score_name(self.cfg)

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """Of the score and the further objectives, as Optuna names them."""
        found: list[Literal["maximize", "minimize"]] = ["maximize"]
        return found + ["minimize" for _ in self.objectives]

    @property
    def total_epochs(self) -> int:
        """Epochs of the longest trial there can be."""
        from raydet.search_spaces.domains import bounds

        cooldown = self.cfg.schedule.cooldown_epochs
        searched = self.space.domains.get("schedule.epochs")
        return cooldown + (self.cfg.schedule.epochs if searched is None else max(bounds(searched)))

    @property
    def grace_epochs(self) -> int:
        """Epochs before a trial can be stopped: the warm-up, and until the first evaluation."""
        least = max(1, math.ceil(self.cfg.schedule.warmup_epochs), self.cfg.run.eval_after)
        return min(least, self.total_epochs)

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs done at which trials are compared and stopped."""
        places = (self.grace_epochs * REDUCTION**k for k in range(32))
        return () if self.scheduler == "none" else tuple(place for place in places if place < self.total_epochs)

    @property
    def brackets(self) -> int:
        """Groups of trials that are compared among themselves, the next one from the next rung on."""
        return len(self.rungs) + 1 if self.scheduler == "hyperband" else 1

    @property
    def interval_epochs(self) -> int:
        """PBT: epochs between changes; each costs a new start of the workers."""
        return max(self.grace_epochs, round(self.total_epochs / 10))

    def trial(self, name: str, params: Mapping[str, Any], seed: int | None = None) -> Config:
        """Return the configuration of the run `name` with these values."""
        place = {"run.name": name, "run.storage_path": str(self.folder / "trials")}
        cfg = override(self.space.config(self.cfg, dict(params)), place)
        return cfg if seed is None else override(cfg, {"run.seed": seed})


def make_setting(
    cfg: Config,
    space: str | Mapping[str, Any] | None,
    sets: Sequence[str] = (),
    *,
    num_samples: int = 20,
    algorithm: str = "tpe",
    scheduler: str = "asha",
    objectives: Sequence[str] = (),
    warm_start: str | Path | None = None,
    **more: Any,
) -> Setting:
    """Return the checked setting; see `raydet.tune` for the arguments.

    Raises:
        ConfigError: whatever of it cannot be.
    """
    if not isinstance(cfg, Config):
        raise ConfigError(f"tune needs a Config, e.g. raydet.recipe('demo_classification'), got {cfg!r}")
    if space is not None and not isinstance(space, (str, Mapping)):
        raise ConfigError(f"space must be a name, a file or a dict of dotted keys to ray.tune domains, got {space!r}")
    sets, objectives = _listed(sets), _listed(objectives)
    _one_of("algorithm", algorithm, ALGORITHMS)
    _one_of("scheduler", scheduler, SCHEDULERS)
    for name in objectives:
        _one_of("objective", name, OBJECTIVES)
    _at_least("num_samples", num_samples, 1)
    for name, least in (("concurrent", 1), ("confirm", 0), ("patience", 1)):
        _at_least(name, more.get(name), least)
    if cfg.scaling.worker_range[1] == 0:
        raise ConfigError(
            "scaling.num_workers=0 trains without Ray, and trials run on Ray's workers; set it to 1 or more"
        )
    found = get(space, cfg, sets)
    if algorithm == "pbt":
        _check_pbt(found, num_samples, objectives)
    setting = Setting(
        cfg=_named(absolute(cfg), found),
        space=found,
        num_samples=num_samples,
        algorithm=algorithm,
        scheduler="none" if algorithm == "pbt" or objectives else scheduler,
        objectives=tuple(dict.fromkeys(objectives)),
        warm_start=None if warm_start is None else Path(warm_start).expanduser().absolute(),
        **more,
    )
    _check_warm_start(setting)
    return _as_begun(setting)


def _as_begun(setting: Setting) -> Setting:
    """Return the setting with what was the default when the search under its name began."""
    path = setting.folder / "search.json"
    if not path.is_file():
        return setting
    begun = from_dict(json.loads(path.read_text())["config"])
    return replace(setting, cfg=with_former_defaults(setting.cfg, begun))


def _listed(value: Sequence[str]) -> Sequence[str]:
    return (value,) if isinstance(value, str) else value


def _one_of(what: str, value: Any, known: Sequence[str] | Mapping[str, Any]) -> None:
    if value not in known:
        close = nearest(str(value), known, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"{what} must be one of {', '.join(known)}, got {value!r}{hint}")


def _at_least(what: str, value: int | None, least: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ConfigError(f"{what} must be a whole number from {least}, got {value!r}")


def _named(cfg: Config, space: Space) -> Config:
    """Give the search a name of its own where the recipe's was not changed: a run of it may lie there."""
    given = cfg.recipe not in RECIPES or recipe(str(cfg.recipe)).run.name != cfg.run.name
    name = cfg.run.name if given else f"{cfg.run.name}-{space.name}"
    return override(cfg, {"run.name": name[:64]})


def _check_pbt(space: Space, num_samples: int, objectives: Sequence[str]) -> None:
    if objectives:
        raise ConfigError("algorithm=pbt follows one score; further objectives go with tpe or random")
    if num_samples < 2:
        raise ConfigError(f"algorithm=pbt needs a population of at least 2, got num_samples={num_samples}")
    for key in space.keys:
        if key.partition(".")[0] not in _CHANGES_IN_A_RUN or key in _FIXED_IN_A_RUN:
            raise ConfigError(
                f"algorithm=pbt changes values in the middle of a run, and {key} cannot change there; it can be "
                f"sections {', '.join(_CHANGES_IN_A_RUN)} without {', '.join(_FIXED_IN_A_RUN)}. Search it by tpe"
            )


def _check_warm_start(setting: Setting) -> None:
    where = setting.warm_start
    if where is not None and not (where / "optuna.journal").is_file():
        raise ConfigError(f"warm_start={where}: no search lies there (no optuna.journal); name a search's folder")


def identity(setting: Setting) -> dict[str, Any]:
    """Return what search.json holds: all that must stay when a search continues."""
    return {
        "format": 1,
        "config": to_dict(setting.cfg),
        "space": {key: spelt(domain) for key, domain in setting.space.domains.items()},
        "algorithm": setting.algorithm,
        "scheduler": setting.scheduler,
        "objectives": list(setting.objectives),
    }


def write_identity(setting: Setting) -> None:
    """Write search.json; raise ConfigError where another search lies under this name."""
    check_identity(setting)
    replace_file(setting.folder / "search.json", json.dumps(identity(setting), indent=2) + "\n")


def check_identity(setting: Setting) -> None:
    """Raise ConfigError where another search, or anything else, lies under this name."""
    path = setting.folder / "search.json"
    if path.exists():
        changes = _changed(json.loads(path.read_text()), identity(setting))
        if changes:
            where = f"run.name={setting.cfg.run.name} is another search in {setting.folder.parent}"
            raise ConfigError(
                f"{where}: {'; '.join(changes[:4])}. "
                "Choose another run.name, or repeat the old command to continue it, or remove that folder"
            )
    elif setting.folder.is_dir() and any(path.name != ".lock" for path in setting.folder.iterdir()):
        raise ConfigError(f"run.name: {setting.folder} exists and is not a search of raydet; choose another run.name")


def _changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    cfg, before = from_dict(new["config"]), from_dict(old["config"])
    changes = [
        f"{key} was {was!r}, now {now!r}"
        for key, (was, now) in differences(before, cfg).items()
        if key not in _MAY_DIFFER and not key.startswith("scaling.")
    ]
    for key in sorted({*old["space"], *new["space"]}):
        was, now = old["space"].get(key, "not searched"), new["space"].get(key, "not searched")
        changes += [f"{key} was {was}, now {now}"] if was != now else []
    rest = ("algorithm", "scheduler", "objectives")
    return changes + [f"{name} was {old[name]}, now {new[name]}" for name in rest if old[name] != new[name]]


def with_cpus(setting: Setting, cpus: int) -> Setting:
    """Return the setting with `cpus` CPUs reserved for each worker."""
    return replace(setting, cfg=override(setting.cfg, {"scaling.cpus_per_worker": cpus}))
