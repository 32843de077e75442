"""Sections on how the network learns: loss, optimiser, schedule, average, precision."""

from dataclasses import dataclass
from typing import Literal

from raydet.config.validators import fraction, positive, require, within


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """What is minimised. Detection: focal loss + box_weight x Huber loss; classification: cross entropy."""

    alpha: float = 0.25
    """Focal loss: weight of positives; negatives weigh 1 - alpha (arXiv:1708.02002)."""
    gamma: float = 1.5
    """Focal loss: how far easy examples are played down."""
    delta: float = 0.1
    """Huber loss: where it turns from quadratic to linear, in units of box codes."""
    box_weight: float = 50.0
    """Weight of the box loss against the class loss."""
    label_smoothing: float = 0.0
    """Share of each target's mass that is spread evenly, 0 to 1."""
    match_iou: float = 0.5
    """Anchors that reach this IoU with a box are positives; each box's best anchor always is."""
    distinct_matches: bool = False
    """Of two boxes that share their best anchor, give the second its next best. False: the first wins, as in
    TensorFlow's."""

    def __post_init__(self) -> None:
        fraction("loss", self, "alpha", "label_smoothing", "match_iou")
        positive("loss", self, "delta")
        for name in ("gamma", "box_weight"):
            require(getattr(self, name) >= 0, f"loss.{name} must be >= 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Optim:
    """Optimizer, learning rate and weight decay."""

    name: Literal["sgd", "rmsprop", "adamw"] = "sgd"
    """sgd with momentum; rmsprop with momentum, eps outside the root; adamw."""
    lr: float = 0.01
    """Peak learning rate, for a global batch of lr_batch_size images."""
    batch_size: int | None = None
    """Images per step over all workers, by accumulating micro-batches of data.batch_size per worker. None: one
    micro-batch per worker."""
    lr_batch_size: int | None = None
    """The global batch that lr is for; lr is scaled linearly to the actual one. None: lr is used as it is."""
    momentum: float = 0.9
    """Momentum of sgd and rmsprop, first beta of adamw."""
    alpha: float = 0.9
    """rmsprop: decay of the squared gradients."""
    eps: float = 1e-3
    """rmsprop and adamw: added to the root of the squared gradients."""
    weight_decay: float = 4e-5
    """Decay of the weights, added to the gradient (adamw: decoupled)."""
    decay_biases: bool = False
    """Biases decay too, as in NVIDIA's classification recipe (squeeze-excite and classifier). BatchNorm never does."""
    decay_bn: bool = False
    """BatchNorm's scale and shift decay too."""
    grad_clip: float | None = 10.0
    """Longest global gradient norm allowed. None: no clipping."""

    def __post_init__(self) -> None:
        positive("optim", self, "lr", "lr_batch_size", "eps", "grad_clip", "batch_size")
        fraction("optim", self, "momentum", "alpha")
        require(self.weight_decay >= 0, f"optim.weight_decay must be >= 0, got {self.weight_decay}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Number of epochs and course of the learning rate, which changes once an epoch unless per_step."""

    name: Literal["cosine", "linear", "step", "constant"] = "cosine"
    """Form of the decay after the warm-up."""
    epochs: int = 300
    """Epochs of the schedule; cooldown_epochs come on top."""
    warmup_epochs: float = 5.0
    """Epochs of linear warm-up from warmup_lr; fractions need per_step."""
    warmup_lr: float = 1e-4
    """Learning rate at the start of the warm-up, before scaling by the batch."""
    warmup_first: bool = False
    """The first epoch starts one warm-up step above warmup_lr: lr x (epoch + 1) / warmup_epochs for warmup_lr 0."""
    warmup_prefix: bool = False
    """The decay starts after the warm-up. False: it runs from epoch 0 and the warm-up covers its beginning."""
    min_lr: float = 1e-5
    """Learning rate at the end, before scaling by the batch."""
    cooldown_epochs: int = 0
    """Further epochs at min_lr."""
    milestones: tuple[int, ...] = (30, 60, 80)
    """step: epochs at which the learning rate is multiplied by step_factor."""
    step_factor: float = 0.1
    """step: the factor."""
    per_step: bool = False
    """Move the learning rate every step instead of every epoch."""
    noise: tuple[float, float] | None = None
    """Between these shares of the epochs, multiply the learning rate by 1 + noise. None: off."""
    noise_limit: float = 0.67
    """Noise is drawn from a normal distribution until it is smaller than this."""

    def __post_init__(self) -> None:
        require(self.epochs > 0, f"schedule.epochs must be > 0, got {self.epochs}")
        for name in ("warmup_epochs", "warmup_lr", "min_lr", "cooldown_epochs"):
            require(getattr(self, name) >= 0, f"schedule.{name} must be >= 0, got {getattr(self, name)}")
        positive("schedule", self, "step_factor", "noise_limit")
        if self.noise is not None:
            within("schedule.noise", self.noise, 0, 1)
        require(
            self.per_step or self.warmup_epochs == int(self.warmup_epochs),
            f"schedule.warmup_epochs={self.warmup_epochs} is a fraction, which needs schedule.per_step=true",
        )

    @property
    def total_epochs(self) -> int:
        """Epochs a run trains, cool-down included."""
        return self.epochs + self.cooldown_epochs


@dataclass(frozen=True, kw_only=True, slots=True)
class Ema:
    """EMA of all parameters and buffers; what is evaluated and kept as best when on."""

    decay: float | None = 0.9998
    """Share of the average that stays at each step. None: no average."""
    warmup: bool = False
    """Use min(decay, (1 + step) / (10 + step)), for short runs."""

    def __post_init__(self) -> None:
        fraction("ema", self, "decay")


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """Number format, memory layout, compilation."""

    mode: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """fp32; tf32: fp32 with TF32 products (NVIDIA Ampere on); bf16 and fp16: autocast, fp16 with a loss scale."""
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"
    """Layout of images and weights."""
    compile: bool = False
    """Compile the network with torch.compile."""
    cuda_graph: bool = False
    """Capture the whole training step in a CUDA graph and replay it: what is left of a step is one launch. Pays where
    launching thousands of small kernels takes longer than running them, as with D0 below 32 images a GPU."""
    ops: Literal["auto", "torch", "cuda"] = "auto"
    """Who computes raydet's own operations (focal loss, target assignment, NMS, EMA, RMSprop). auto: fused
    CUDA kernels on a GPU with CuPy, else PyTorch; torch: PyTorch; cuda: the kernels or an error."""
    loss_scale: float = 65536.0
    """fp16: first loss scale."""
    loss_scale_interval: int = 2000
    """fp16: steps without overflow after which the loss scale is multiplied by 2; an overflow halves it."""

    def __post_init__(self) -> None:
        positive("precision", self, "loss_scale", "loss_scale_interval")


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantization:
    """INT8 instead of FP32: fake-quantizers in the network, their ranges found before training.

    Weights have a range per output channel, activations one per tensor; both are symmetric around zero.
    """

    backend: Literal["pytorch-quantization", "modelopt"] = "pytorch-quantization"
    """The library whose fake-quantizers are used: NVIDIA's older one (2.1.3), or Model Optimizer, which succeeds it."""
    bits: int = 8
    """Bits of a weight and of an activation. What is exported must have 8."""
    calibration: Literal["percentile", "max"] = "percentile"
    """How activations' ranges are found: a share of all values, or the largest. Weights' ranges are their largest."""
    percentile: float = 99.99
    """percentile: the share of values, in percent, that the range covers. At 99 accuracy is lost, above 99.9 not."""
    batches: int = 10
    """Training batches of data.batch_size images that ranges are found on, the same for any number of workers."""
    skip: tuple[str, ...] = ()
    """What stays in FP32: groups (stem, pointwise, depthwise, se, residual, head, classifier, fpn, fusion, towers,
    predict) or parts of the model by their dotted name."""
    freeze_bn_after: float | None = None
    """Keep BatchNorm's statistics as they are after this share of the training, 0 to 1. None: they keep moving."""

    def __post_init__(self) -> None:
        positive("quantization", self, "batches")
        fraction("quantization", self, "freeze_bn_after")
        require(2 <= self.bits <= 8, f"quantization.bits must be 2 to 8, got {self.bits}")
        require(0 < self.percentile <= 100, f"quantization.percentile must be in (0, 100], got {self.percentile}")
