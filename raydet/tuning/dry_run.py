"""What a search would do, without doing it: its ranges, its first trials, the epochs it takes at most."""

from typing import Any

from raydet.search_spaces import spelt
from raydet.tuning.quiet import quiet_optuna
from raydet.tuning.report.live_view import short_names, value_text, values_text
from raydet.tuning.search.sampler import make_sampler
from raydet.tuning.search.study import distributions_of, enqueue
from raydet.tuning.settings import Setting
from raydet.tuning.tune import begins, first_plan

_SHOWN = 5
_RANDOM_TRIALS = 10
"""The first points, which rest on no result: TPE draws at random until it has 10 (Optuna's default)."""


def dry_run(setting: Setting, quiet: bool = False) -> dict[str, Any]:
    """Print what the search would do, unless quiet, and return it as JSON values. Writes nothing, starts no Ray.

    Raises:
        ConfigError, DataError, WeightsError: as `tune` would.
    """
    plan = first_plan(setting)
    found = {
        "search": str(setting.folder),
        "train_images": plan.train_images,
        "val_images": plan.val_images,
        "trials": setting.num_samples,
        "epochs_at_most": setting.num_samples * setting.total_epochs,
        "rungs": list(setting.rungs),
        "space": {key: spelt(domain) for key, domain in setting.space.domains.items()},
        "first": first_points(setting, min(_RANDOM_TRIALS, setting.num_samples)),
    }
    if not quiet:
        print("\n".join([*begins(setting, plan), *_lines(setting, found)]))
    return found


def first_points(setting: Setting, count: int) -> list[dict[str, Any]]:
    """Return the values of the first trials: the default, points that are known to be good, then random ones."""
    import optuna

    distributions, points = distributions_of(setting), list[dict[str, Any]]()
    with quiet_optuna():
        study = optuna.create_study(directions=setting.directions)
        enqueue(setting, study)
        for number in range(1, count + 1):
            study.sampler = make_sampler(setting, number)
            points.append(study.ask(distributions).params)
    return points


def _lines(setting: Setting, found: dict[str, Any]) -> list[str]:
    names = short_names(setting.space.keys)
    how = setting.algorithm if setting.scheduler == "none" else f"{setting.algorithm} with {setting.scheduler}"
    most = f"at most {found['epochs_at_most']} epochs"
    lines = [f"trials    {setting.num_samples} by {how}, {setting.total_epochs} epochs each: {most}"]
    if found["rungs"]:
        lines.append(f"          compared after {', '.join(map(str, found['rungs']))}, and stopped if worse")
    lines += [f"trial {n:<4}{values_text(point, names)}" for n, point in enumerate(found["first"][:_SHOWN], 1)]
    lines.append("searched:")
    own = setting.space.points[0]
    return lines + [f"  {key}: {domain}, now {value_text(own[key])}" for key, domain in found["space"].items()]
