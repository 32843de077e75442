"""How the weights move: optimisers with the documented groups, learning-rate schedules, moving average, clipping."""

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from raydet.config import Config, Ema, Optim, Schedule

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def build_optimizer(model: nn.Module, cfg: Optim) -> torch.optim.Optimizer:
    """Return the optimiser over the trainable parameters of `model`, in two groups: decayed and not.

    Not decayed: BatchNorm's parameters (unless decay_bn), biases (unless decay_biases) and other vectors and scalars,
    such as the weights of a fusion node.
    """
    decayed: list[Tensor] = []
    spared: list[Tensor] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if isinstance(module, _NORMS):
                decays = cfg.decay_bn
            elif name == "bias":
                decays = cfg.decay_biases
            else:
                decays = parameter.ndim > 1
            (decayed if decays else spared).append(parameter)
    groups = [{"params": decayed, "weight_decay": cfg.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    # torch's fused and foreach steps give the same numbers as its loops, in two launches instead of thousands.
    if cfg.name == "sgd":
        return torch.optim.SGD(groups, lr=cfg.lr, momentum=cfg.momentum, fused=True)
    if cfg.name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=cfg.lr, alpha=cfg.alpha, eps=cfg.eps, momentum=cfg.momentum, foreach=True)
    return torch.optim.AdamW(groups, lr=cfg.lr, betas=(cfg.momentum, 0.999), eps=cfg.eps, fused=True)


def learning_rate(cfg: Config, epoch: float) -> float:
    """Return the learning rate at `epoch` (a fraction if per_step), scaled by the global batch.

    Warm-up and forms as in timm's schedulers and NVIDIA's `lr_cosine_policy`; see the fields of config.Schedule.
    """
    schedule, peak = cfg.schedule, cfg.optim.lr
    if epoch >= schedule.epochs:
        return cfg.lr_scale * (schedule.min_lr if schedule.cooldown_epochs else _decayed(schedule, peak, 1.0, epoch))
    if epoch < schedule.warmup_epochs:
        done = (epoch + (1.0 if schedule.warmup_first else 0.0)) / schedule.warmup_epochs
        return cfg.lr_scale * (schedule.warmup_lr + (peak - schedule.warmup_lr) * min(1.0, done))
    start = schedule.warmup_epochs if schedule.warmup_prefix else 0.0
    share = (epoch - start) / (schedule.epochs - start)
    return cfg.lr_scale * _decayed(schedule, peak, share, epoch) * (1.0 + _noise(schedule, cfg.run.seed, epoch))


def _decayed(schedule: Schedule, peak: float, share: float, epoch: float) -> float:
    span = peak - schedule.min_lr
    if schedule.name == "cosine":
        return schedule.min_lr + span * (1 + math.cos(math.pi * share)) / 2
    if schedule.name == "linear":
        return schedule.min_lr + span * (1 - share)
    if schedule.name == "step":
        return float(peak * schedule.step_factor ** sum(epoch >= m for m in schedule.milestones))
    return peak


def _noise(schedule: Schedule, seed: int, epoch: float) -> float:
    """Relative noise of this epoch: normal, drawn again until it is below the limit; the same on all workers."""
    if schedule.noise is None:
        return 0.0
    first, last = (share * schedule.epochs for share in schedule.noise)
    if not first <= epoch < last:
        return 0.0
    generator = torch.Generator().manual_seed(seed + int(epoch))
    while True:
        value = torch.randn((), generator=generator).item()
        if abs(value) < schedule.noise_limit:
            return value


class MovingAverage:
    """Exponential moving average of a model's parameters and buffers, held in `model`, a copy of it.

    Whole numbers (BatchNorm's counters) are copied. Buffers are averaged like parameters, as in timm's and NVIDIA's.
    """

    def __init__(self, model: nn.Module, cfg: Ema) -> None:
        if cfg.decay is None:
            raise ValueError("ema.decay is none: there is no average to keep")
        self.decay, self.warmup = cfg.decay, cfg.warmup
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._pairs(model)

    def _pairs(self, model: nn.Module) -> None:
        ours, theirs = _tensors(self.model), _tensors(model)
        floats = [i for i, tensor in enumerate(ours) if tensor.is_floating_point()]
        self._ours, self._theirs = [ours[i] for i in floats], [theirs[i] for i in floats]
        counters = [i for i, tensor in enumerate(ours) if not tensor.is_floating_point()]
        self._our_counters, self._counters = [ours[i] for i in counters], [theirs[i] for i in counters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the model after step number `step` (the first is 1)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        torch._foreach_lerp_(self._ours, self._theirs, 1 - decay)
        if self._counters:
            torch._foreach_copy_(self._our_counters, self._counters)


def _tensors(model: nn.Module) -> list[Tensor]:
    # By name, so that the two models' tensors are paired by what they are and not by where they stand.
    return [
        tensor.detach() for _, tensor in sorted([*model.named_parameters(), *model.named_buffers()], key=lambda p: p[0])
    ]


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], longest: float | None) -> Tensor | None:
    """Scale all gradients together to a global L2 norm of at most `longest`; return the norm before, or None."""
    if longest is None:
        return None
    return nn.utils.clip_grad_norm_(parameters, longest, foreach=True)


def freeze(model: nn.Module, parts: tuple[str, ...]) -> list[nn.Module]:
    """Stop training the named parts (dotted module names); return the modules, whose BatchNorm must stay in eval mode.

    Raises:
        ValueError: no such part; names those there are.
    """
    named = dict(model.named_modules())
    frozen = []
    for part in parts:
        if part not in named or not part:
            children = ", ".join(name for name, _ in model.named_children())
            raise ValueError(f"model.freeze: the model has no part {part!r}; it has {children} and what is in them")
        frozen.append(named[part].requires_grad_(False))
    return frozen
