"""What somebody may have meant by a name that is not there."""

import difflib
from collections.abc import Collection, Iterable

OTHER_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("learning_rate", "lr0", "base_lr"), ("optim.lr",)),
    **dict.fromkeys(("optimizer", "opt"), ("optim.name",)),
    **dict.fromkeys(("wd", "decay"), ("optim.weight_decay",)),
    **dict.fromkeys(("scheduler", "sched", "lr_scheduler"), ("schedule.name",)),
    **dict.fromkeys(("num_epochs", "max_epochs"), ("schedule.epochs",)),
    **dict.fromkeys(("batch", "bs"), ("data.batch_size", "optim.batch_size")),
    **dict.fromkeys(("imgsz", "img", "img_size", "input_size", "size"), ("model.image_size",)),
    **dict.fromkeys(("num_workers", "workers"), ("data.workers", "scaling.num_workers")),
    **dict.fromkeys(("device", "gpu", "cuda"), ("scaling.use_gpu",)),
    **dict.fromkeys(("gpus", "num_gpus"), ("scaling.use_gpu", "scaling.num_workers")),
    **dict.fromkeys(("data", "dataset", "data_dir", "data_path"), ("data.root",)),
    **dict.fromkeys(("model", "arch"), ("model.name",)),
    **dict.fromkeys(("pretrained", "checkpoint", "ckpt"), ("model.weights",)),
    **dict.fromkeys(("classes", "nc"), ("model.num_classes",)),
    **dict.fromkeys(("project", "output", "output_dir", "save_dir"), ("run.storage_path",)),
    **dict.fromkeys(("amp", "half", "fp16", "bf16"), ("precision.mode",)),
    "warmup": ("schedule.warmup_epochs",),
    "patience": ("run.early_stop",),
    "clip_grad": ("optim.grad_clip",),
    "ema": ("ema.decay",),
    "iou": ("evaluation.nms_iou",),
    "conf": ("evaluation.score_threshold",),
}
"""Names of settings in other programs -> keys of ours."""


def nearest(word: str, known: Iterable[str], most: int = 3, least_ratio: float = 0.6) -> list[str]:
    """Return up to `most` of `known` that look like `word`, the best first; dotted names also match by their end."""
    ends: dict[str, list[str]] = {}
    for name in known:
        for form in {name, name.rpartition(".")[2]}:
            ends.setdefault(form.lower(), []).append(name)
    word = word.lower()
    forms = difflib.get_close_matches(word, ends, most, least_ratio) or difflib.get_close_matches(
        word.rpartition(".")[2], ends, most, least_ratio
    )
    return list(dict.fromkeys(name for form in forms for name in ends[form]))[:most]


def same_keys(word: str, known: Collection[str]) -> list[str]:
    """Return the keys whose last part is that of `word`, here or in other programs: `lr`, `optim.epochs`, `imgsz`."""
    section, _, end = word.lower().rpartition(".")
    named = [key for key in known if key.rpartition(".")[2] == end]
    others = [key for key in OTHER_NAMES.get(end, ()) if key in known and key.startswith(section)]
    return list(dict.fromkeys([*named, *others]))


def near_keys(word: str, known: Collection[str]) -> list[str]:
    """Return the keys that `word` may mean, the best first; empty: nothing is near."""
    same = same_keys(word, known)
    section, _, end = word.rpartition(".")
    fields = [key.removeprefix(f"{section}.") for key in known if section and key.startswith(f"{section}.")]
    if same or not fields:
        return same or nearest(word, known, least_ratio=0.7)
    swapped = [field for field in fields if sorted(field) == sorted(end)]  # `rl`: too short to be near in another way
    return [f"{section}.{field}" for field in swapped or nearest(end, fields)]
