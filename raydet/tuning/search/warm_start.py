"""--warm-start: the best points of an earlier search, tried first."""

from typing import Any

from raydet.exceptions import ConfigError
from raydet.tuning.quiet import quiet_optuna
from raydet.tuning.search.storage import open_storage
from raydet.tuning.settings import Setting

_WARM_POINTS = 5
"""Points of an earlier search that are tried first, the best ones."""


def warm_points(setting: Setting) -> list[dict[str, Any]]:
    """Return the best points of an earlier search that lie in this one's space; keys it lacks have the default."""
    import optuna

    from raydet.search_spaces.domains import holds

    if setting.warm_start is None:
        return []
    try:
        with quiet_optuna():
            storage = open_storage(setting.warm_start)
            study = optuna.load_study(study_name=None, storage=storage)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"warm_start={setting.warm_start}: its optuna.journal cannot be read: {error}") from error
    done = [t for t in study.trials if t.values and t.state.is_finished()]
    done.sort(key=lambda t: t.values[0], reverse=True)
    own = setting.space.points[0]
    points: list[dict[str, Any]] = []
    for trial in done:
        inside = {k: v for k, v in trial.params.items() if k in own and holds(setting.space.domains[k], v)}
        if inside and len(points) < _WARM_POINTS:
            points.append(own | inside)
    return points
