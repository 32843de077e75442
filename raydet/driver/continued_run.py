"""Whether a configuration continues the run that lies under its name, or is refused."""

import warnings
from pathlib import Path

from raydet.config import Config, as_flat, differences, load, override
from raydet.exceptions import ConfigError
from raydet.runs import checkpoint_store
from raydet.runs.diagnostics import has_given_up
from raydet.runs.layout import CHECKPOINTS
from raydet.training.resume import FROM_WEIGHTS, saved_config

MAY_CHANGE = {
    "recipe",
    "data.workers",
    "data.prefetch",
    "data.eval_batch_size",
    "run.max_failures",
    "run.keep",
    "run.log_steps",
    "run.nan_patience",
    "run.stop_grace_s",
    "run.checkpoint_minutes",
    "run.name",
    "run.storage_path",
}
"""Settings that may change when a run continues, besides the section `scaling`: none of them changes what is trained.
Name and location say where the run is stored; a folder may be moved."""
_REMEDIES = {"optim.lr", "optim.grad_clip", "schedule.warmup_epochs", "schedule.warmup_lr", "precision.mode"}
"""Settings that may change too where a run has ended because its numbers were not finite."""


def with_former_defaults(cfg: Config, begun: Config) -> Config:
    """Return `cfg` with what was the default when a run or a search began, which it keeps: data.exif was false."""
    if cfg.data.exif == "auto" and begun.data.exif is False:
        return override(cfg, {"data.exif": False})
    return cfg


def begun_config(folder: Path) -> Config | None:
    """Return the configuration of the run in `folder`, from its newest checkpoint where config.json is gone or cut.

    Raises:
        ConfigError: config.json cannot be read and there is no checkpoint that has it.
    """
    path = folder / "config.json"
    lost: ConfigError | None = None
    if path.exists():
        try:
            return load(path)
        except ConfigError as error:
            lost = error
    newest = checkpoint_store.newest(folder / CHECKPOINTS) if (folder / CHECKPOINTS).is_dir() else None
    if newest is not None:
        what = lost or f"{path} is gone"
        warnings.warn(f"{what}; the one in {newest.path.name} is used", RuntimeWarning, stacklevel=2)
        return saved_config(newest)
    if lost is not None:
        raise lost
    return None


def continued(cfg: Config, folder: Path) -> Config:
    """Return `cfg` with the global batch of the run that lies in `folder`; refuse another configuration.

    Raises:
        ConfigError: names the differing keys, or what lies there is no run.
    """
    old = begun_config(folder)
    if old is None:
        if folder.is_dir() and any(not p.name.startswith((".lock", ".tmp-")) for p in folder.iterdir()):
            raise ConfigError(f"run.name: {folder} exists and is not a run of raydet; choose another run.name")
        return cfg
    cfg = with_former_defaults(cfg, old)
    given, known = as_flat(cfg), as_flat(old)
    # What was found out when the run began, from its data and weights, holds where it is not given.
    cfg = override(cfg, {key: known[key] for key in ("model.num_classes", *FROM_WEIGHTS) if given[key] is None})
    changed = differences(old, cfg)
    if cfg.optim.batch_size is None and cfg.data.batch_size == old.data.batch_size:
        # Only the number of workers may differ: the run keeps its global batch.
        cfg = override(cfg, {"optim.batch_size": old.global_batch})
    if cfg.global_batch == old.global_batch:
        changed = {k: v for k, v in changed.items() if k not in ("data.batch_size", "optim.batch_size")}
    if has_given_up(folder):
        changed = {k: v for k, v in changed.items() if k not in _REMEDIES}
    refused = {k: v for k, v in changed.items() if k not in MAY_CHANGE and not k.startswith("scaling.")}
    if refused:
        rows = "; ".join(f"{key} was {was!r}, now {now!r}" for key, (was, now) in list(refused.items())[:4])
        more = f"; and {len(refused) - 4} more" if len(refused) > 4 else ""
        raise ConfigError(
            f"run.name={cfg.run.name} is another run in {folder.parent}: {rows}{more}. "
            "Choose another run.name, or repeat the old command to continue it, or remove that folder"
        )
    return cfg
