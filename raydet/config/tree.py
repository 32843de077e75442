"""The whole tree: `Config`, and the checks that span sections."""

from dataclasses import dataclass, field
from typing import Literal

from raydet.config.data import DETECTION_FORMATS, Augment, Data, Model
from raydet.config.run import Evaluation, Run, Scaling
from raydet.config.training import Ema, Loss, Optim, Precision, Quantization, Schedule
from raydet.config.validators import require


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A whole run. Get a complete one from `raydet.recipe(name)`; change it with `raydet.override`."""

    recipe: str | None = None
    """Name of the recipe that this started from."""
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    loss: Loss = field(default_factory=Loss)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    ema: Ema = field(default_factory=Ema)
    precision: Precision = field(default_factory=Precision)
    quantization: Quantization | None = None
    """None: off."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    scaling: Scaling = field(default_factory=Scaling)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        detects = self.task == "detection"
        wanted = DETECTION_FORMATS if detects else ("folder", "parquet")
        require(
            self.data.format in wanted,
            f"data.format={self.data.format} does not fit model.name={self.model.name}, "
            f"which needs {' or '.join(wanted)}",
        )
        require(
            self.data.backend != "dali-gpu" or self.scaling.use_gpu,
            "data.backend=dali-gpu needs scaling.use_gpu=true; without a GPU use dali-cpu",
        )
        require(
            detects or self.model.backbone_weights is None,
            f"model.backbone_weights is for detectors; for {self.model.name} use model.weights",
        )
        require(
            not self.model.sync_bn or self.scaling.use_gpu,
            "model.sync_bn needs scaling.use_gpu=true: torch's SyncBatchNorm runs on GPUs only",
        )
        require(
            self.precision.mode not in ("tf32", "fp16") or self.scaling.use_gpu,
            f"precision.mode={self.precision.mode} needs scaling.use_gpu=true; on CPUs use fp32 or bf16",
        )
        require(
            not self.precision.cuda_graph or self.scaling.use_gpu,
            "precision.cuda_graph=true needs scaling.use_gpu=true: a CPU has no launches to save",
        )
        require(
            self.precision.ops != "cuda" or self.scaling.use_gpu,
            "precision.ops=cuda needs scaling.use_gpu=true; auto uses the kernels where there is a GPU",
        )
        for name in ("compile", "cuda_graph"):
            require(
                self.quantization is None or not getattr(self.precision, name),
                f"precision.{name}=true does not go with quantization, whose quantizers ask the host at each call; "
                f"set precision.{name} to false",
            )

    @property
    def task(self) -> Literal["detection", "classification"]:
        """What the model does, by its name."""
        return "detection" if "efficientdet" in self.model.name else "classification"

    @property
    def global_batch(self) -> int:
        """Images per optimiser step over all workers."""
        return self.optim.batch_size or self.data.batch_size * max(1, self.scaling.worker_range[1])

    @property
    def lr_scale(self) -> float:
        """Factor on all learning rates, by the global batch."""
        return 1.0 if self.optim.lr_batch_size is None else self.global_batch / self.optim.lr_batch_size
