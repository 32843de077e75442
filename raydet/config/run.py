"""Sections on the run around the learning: scoring, machines, name, place and rhythm."""

import re
from dataclasses import dataclass
from typing import Literal

from raydet.config.validators import fraction, positive, require


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """How boxes come out of the network and how they are scored."""

    score_threshold: float = 0.001
    """Detections below this probability are dropped."""
    top_k: int = 5000
    """Candidates (anchor, class) per image that enter non-maximum suppression."""
    nms_iou: float = 0.5
    """Boxes of one class that overlap a better one by more than this are dropped."""
    soft_nms_sigma: float | None = None
    """Soft non-maximum suppression (arXiv:1704.04503): instead of dropping overlapping boxes, multiply their scores by
    exp(-IoU^2 / sigma); effdet uses 0.5. None: off, boxes are dropped at nms_iou."""
    class_agnostic_nms: bool = False
    """A box also drops those of other classes that it overlaps: one box per object, at the cost of some AP."""
    max_detections: int = 100
    """Detections per image."""
    backend: Literal["faster", "pycocotools"] = "faster"
    """Who computes AP: faster-coco-eval, or its judge pycocotools (same figures, about 8 times slower)."""
    recalibrate_bn: int = 0
    """Before scoring, re-estimate BatchNorm's statistics on this many training images; 0: off."""

    def __post_init__(self) -> None:
        fraction("evaluation", self, "score_threshold", "nms_iou")
        positive("evaluation", self, "top_k", "max_detections", "soft_nms_sigma")
        require(self.recalibrate_bn >= 0, f"evaluation.recalibrate_bn must be >= 0, got {self.recalibrate_bn}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """Machines and workers; nothing here changes what comes out of the training."""

    num_workers: int | tuple[int, int] = 1
    """Training workers (processes), or (fewest, most) for an elastic run; 0: train in this process, without Ray."""
    use_gpu: bool = False
    """GPUs (NCCL); False: CPUs (gloo)."""
    gpus_per_worker: float = 1.0
    """use_gpu: GPUs per worker. A part of one, e.g. 0.25, lets a search's trials (of one worker each) share a GPU."""
    cpus_per_worker: int | None = None
    """CPUs reserved per worker. None: 1 + data.workers on a GPU, an even share of the machine on CPUs."""
    threads: int | None = None
    """CPU threads of torch in a worker. None: its CPUs less its loader processes; without Ray, torch's own choice."""
    address: str | None = None
    """Ray cluster to join. None: the one of RAY_ADDRESS, else a local Ray started for the run."""
    timeout_s: float = 600.0
    """Seconds after which a hanging exchange between workers fails."""
    check_memory: bool = True
    """Refuse a run whose steps are expected to need more memory than this machine, or its GPU, has."""

    def __post_init__(self) -> None:
        low, high = self.worker_range
        require(
            0 <= low <= high and (low > 0 or high == 0),
            f"scaling.num_workers must be >= 0, or two numbers 0 < fewest <= most, got {self.num_workers}",
        )
        positive("scaling", self, "cpus_per_worker", "threads", "timeout_s")
        share = self.gpus_per_worker
        require(
            0 < share <= 1 and (share == 1 or high == 1),
            f"scaling.gpus_per_worker must be in (0, 1], and 1 with more than one worker (NCCL), got {share} with "
            f"num_workers={self.num_workers}",
        )

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most workers."""
        return self.num_workers if isinstance(self.num_workers, tuple) else (self.num_workers, self.num_workers)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Name and folder of a run, seed, checkpoints, evaluations, early stopping."""

    name: str = "run"
    """Name of the run's folder: letters, digits, dot, dash and underscore, at most 64."""
    storage_path: str = "runs"
    """Folder that holds runs; must be visible to all workers. Must be absolute in a Ray job."""
    seed: int = 42
    """All randomness comes from this, the epoch and the sample."""
    max_failures: int = 3
    """Worker failures without a new checkpoint in between that are answered by a restart from the last one."""
    checkpoint_epochs: int = 1
    """Epochs between checkpoints; the last epoch is always saved."""
    checkpoint_minutes: float | None = None
    """Also save when the last checkpoint is this old, where an epoch takes long. With several workers BatchNorm's
    statistics are averaged at each save, so that two runs then differ by when they saved. None: never."""
    checkpoint_steps: int | None = None
    """Also save every N steps. None: at epoch ends only."""
    keep: int = 3
    """Newest checkpoints kept beside the best one."""
    eval_epochs: int = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    eval_after: int = 0
    """No evaluation before this epoch (counted from 1), but the last."""
    early_stop: int | None = None
    """End after this many evaluations in a row without a better score. None: never."""
    stop_grace_s: float = 30.0
    """Seconds that training may take to save a checkpoint and end after Ctrl-C or SIGTERM; then it is ended. Whoever
    sends SIGTERM must wait longer before it kills: Slurm's KillWait is 30 s, `ray job stop` gives 3 s."""
    nan_patience: int = 3
    """Steps in a row with a loss or gradient that is not finite, each taken back, after which the newest checkpoint is
    reloaded and the learning rate halved; after three reloads the run ends."""
    log_steps: int = 20
    """Steps between lines in log.json."""

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.name) is not None and self.name.strip(".") != "",
            f"run.name must be 1 to 64 of A-Z a-z 0-9 . _ - and not only dots, got {self.name!r}",
        )
        require(bool(self.storage_path), "run.storage_path must not be empty")
        positive("run", self, "checkpoint_epochs", "checkpoint_steps", "keep", "eval_epochs", "early_stop", "log_steps")
        positive("run", self, "nan_patience", "stop_grace_s", "checkpoint_minutes")
        for name in ("seed", "max_failures", "eval_after"):
            require(getattr(self, name) >= 0, f"run.{name} must be >= 0, got {getattr(self, name)}")
