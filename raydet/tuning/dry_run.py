"""What a search would do, without doing it: its ranges, its first trials, the epochs it takes at most."""

from typing import Any

from raydet.search_spaces import spelt
from raydet.tuning.report.live_view import short_names, value_text, values_text
from raydet.tuning.search.allowance import Allowance
from raydet.tuning.search.sampler import RANDOM_TRIALS, draw
from raydet.tuning.search.study import distributions_of
from raydet.tuning.search.warm_start import warm_points
from raydet.tuning.settings import Setting
from raydet.tuning.tune import begins, first_plan

_SHOWN = 5


def dry_run(setting: Setting, quiet: bool = False) -> dict[str, Any]:
    """Print what the search would do, unless quiet, and return it as JSON values. Writes nothing, starts no Ray.

    Raises:
        ConfigError, DataError, WeightsError: as `tune` would.
    """
    plan = first_plan(setting)
    full, most = setting.num_samples * setting.total_epochs, most_epochs(setting)
    found = {
        "search": str(setting.folder),
        "train_images": plan.train_images,
        "val_images": plan.val_images,
        "trials": setting.num_samples,
        "epochs_at_most": most,
        "epochs_of_full_runs": full,
        "rungs": list(setting.rungs) if setting.scheduler == "asha" else [],
        "space": {key: spelt(domain) for key, domain in setting.space.domains.items()},
        "first": first_points(setting, min(RANDOM_TRIALS, setting.num_samples)),
    }
    if not quiet:
        print("\n".join([*begins(setting, plan), *_lines(setting, found)]))
    return found


def first_points(setting: Setting, count: int) -> list[dict[str, Any]]:
    """Return the values of the first trials: the default, points that are known to be good, then random ones."""
    points = [*setting.space.points, *warm_points(setting)]
    unique = [point for i, point in enumerate(points) if point not in points[:i]]
    distributions = distributions_of(setting)
    drawn = (draw(setting, number, [], distributions) for number in range(len(unique) + 1, count + 1))
    return [*unique[:count], *drawn]


def most_epochs(setting: Setting) -> int:
    """Return the epochs that the search takes at most, repeats not counted."""
    whole = setting.num_samples * setting.total_epochs
    if setting.scheduler != "asha":
        return whole
    return min(whole, Allowance(setting.num_samples, setting.total_epochs, setting.rungs).most)


def _lines(setting: Setting, found: dict[str, Any]) -> list[str]:
    most, full, names = found["epochs_at_most"], found["epochs_of_full_runs"], short_names(setting.space.keys)
    lines = [f"trials    {setting.num_samples} by {setting.algorithm}, {setting.total_epochs} epochs each"]
    if found["rungs"]:
        rungs = ", ".join(map(str, found["rungs"]))
        lines.append(f"          compared after {rungs}, and stopped if worse: at most {most} of {full} epochs")
    lines += [f"trial {n:<4}{values_text(point, names)}" for n, point in enumerate(found["first"][:_SHOWN], 1)]
    lines.append("searched:")
    own = setting.space.points[0]
    return lines + [f"  {key}: {domain}, now {value_text(own[key])}" for key, domain in found["space"].items()]
