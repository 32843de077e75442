"""Quantization-aware training: the optimiser and its schedule, and how activations' ranges are found."""

from typing import TYPE_CHECKING, Any

from raydet.config import Config, as_flat, override
from raydet.exceptions import ConfigError
from raydet.recipes import recipe
from raydet.search_spaces.ranges import carried, flat_range, log_range, options

if TYPE_CHECKING:
    from ray.tune.search.sample import Domain

_KEYS = (
    *("optim.name", "optim.lr", "optim.momentum", "optim.weight_decay", "schedule.name", "schedule.epochs"),
    *("quantization.calibration", "quantization.percentile", "quantization.batches", "quantization.freeze_bn_after"),
)
_RMSPROP_KEYS = ("optim.alpha", "optim.eps")


def fits(cfg: Config) -> None:
    """Raise ConfigError unless the configuration is quantized."""
    if cfg.quantization is None:
        raise ConfigError(
            f"space qat needs a quantized run, and quantization is off in {cfg.recipe or 'this configuration'}; "
            "start from a recipe ..._qat, or switch it on: --quantization.bits 8"
        )


def space(cfg: Config) -> "dict[str, Domain]":
    """Ranges that hold the configuration's own values, B0's and B4's. Where no source is named they are ours.

    optim.name: sgd as for B0, rmsprop as for B4, and the configuration's own.
    optim.lr: log-uniform over what all of them need: 1e-4 to 0.1 for 1024 images with SGD (0.0125 for B0; raydet's
    experiment had 0.00625 for 64), 1e-6 to 1e-4 for 256 with RMSprop (4.09e-6 for B4), a tenth to ten times of the
    configuration's own. Wide, for one key serves two optimisers; the first points lie one in each part of it.
    optim.weight_decay, momentum: 1e-6 to 1e-3, 0.8 to 0.95 (4.5e-5 and 9.714e-4, 0.89 and 0.9).
    optim.alpha, eps: 0.8 to 0.99 (0.853 for B4, torch's default 0.99), 1e-4 to 0.1 (0.00422 for B4; 0.001 and 0.01 in
    the float trainings). sgd does not use them, adamw only eps.
    schedule.name: cosine (B0), linear (B4). schedule.epochs: 1, 2 (B4), 5, 10 (B0); in raydet's experiment nearly all
    that 4 bits had lost was back after one. schedule.warmup_epochs: none, as there, where the configuration has some.
    quantization.calibration: percentile or max. quantization.percentile: 99.9, 99.99 (NVIDIA's), 99.999; at 99 raydet's
    experiment lost 7 points; max does not use it. quantization.batches: 2, 5, 10 (NVIDIA's), 20.
    quantization.freeze_bn_after: never (NVIDIA's), from the start, after a quarter, after half (arXiv:1806.08342).
    """
    own, optim, schedule = cfg.quantization, cfg.optim, cfg.schedule
    assert own is not None, "fits"
    lows = (optim.lr / 10, _carried(cfg, "sgd", 1e-4, 1024), _carried(cfg, "rmsprop", 1e-6, 256))
    highs = (optim.lr * 10, _carried(cfg, "sgd", 0.1, 1024), _carried(cfg, "rmsprop", 1e-4, 256))
    domains = {
        "optim.name": options(optim.name, "sgd", "rmsprop"),
        "optim.lr": log_range(min(lows), max(highs), optim.lr),
        "optim.weight_decay": log_range(1e-6, 1e-3, optim.weight_decay),
        "optim.momentum": flat_range(0.8, 0.95, optim.momentum),
        "optim.alpha": flat_range(0.8, 0.99, optim.alpha),
        "optim.eps": log_range(1e-4, 0.1, optim.eps),
        "schedule.name": options(schedule.name, "cosine", "linear"),
        "schedule.epochs": options(schedule.epochs, 1, 2, 5, 10),
        "quantization.calibration": options(own.calibration, "percentile", "max"),
        "quantization.percentile": options(own.percentile, 99.9, 99.99, 99.999),
        "quantization.batches": options(own.batches, 2, 5, 10, 20),
        "quantization.freeze_bn_after": options(own.freeze_bn_after, None, 0.0, 0.25, 0.5),
    }
    if schedule.warmup_epochs:
        domains["schedule.warmup_epochs"] = options(schedule.warmup_epochs, 0.0)
    return domains


def points(cfg: Config) -> list[dict[str, Any]]:
    """NVIDIA's for B0, then for B4, their learning rates carried to the batch in use."""
    return [_nvidias(cfg, recipe(f"efficientnet_{size}_qat")) for size in ("b0", "b4")]


def _nvidias(cfg: Config, theirs: Config) -> dict[str, Any]:
    keys = _KEYS + (_RMSPROP_KEYS if theirs.optim.name == "rmsprop" else ())
    keys += ("schedule.warmup_epochs",) if cfg.schedule.warmup_epochs else ()
    flat = as_flat(theirs)
    lr = _carried(cfg, theirs.optim.name, theirs.optim.lr, theirs.global_batch)
    return {key: flat[key] for key in keys} | {"optim.lr": lr}


def _carried(cfg: Config, optimizer: str, lr: float, images: int) -> float:
    return carried(lr, images, override(cfg, {"optim.name": optimizer}))
