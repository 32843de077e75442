"""How the weights move: optimisers with the documented groups, learning-rate schedules, EMA, clipping."""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from raydet.config import Config, Ema, Optim, Schedule
from raydet.ops import ema_update, rmsprop_step
from raydet.ops.multi_tensor import Slots, Table

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
    # Fused steps give the same numbers as torch's loops, in two launches instead of thousands.
    if cfg.name == "sgd":
        return torch.optim.SGD(groups, lr=cfg.lr, momentum=cfg.momentum, fused=True)
    if cfg.name == "rmsprop":
        return RMSprop(groups, lr=cfg.lr, alpha=cfg.alpha, eps=cfg.eps, momentum=cfg.momentum)
    return torch.optim.AdamW(groups, lr=cfg.lr, betas=(cfg.momentum, 0.999), eps=cfg.eps, fused=True)


class RMSprop(torch.optim.Optimizer):
    """torch.optim.RMSprop with momentum, all groups in one launch: see `raydet.ops.rmsprop_step`."""

    # GradScaler then hands over its scale and its verdict on overflow instead of asking the device for them.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        alpha: float,
        eps: float,
        momentum: float,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(groups, defaults)
        self._table = Table()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all parameters that have a gradient."""
        moving = [
            (p, group["weight_decay"]) for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        for parameter, _ in moving:
            slots = self.state[parameter]
            if not slots:
                slots["square_avg"] = torch.zeros_like(parameter)
                slots["momentum_buffer"] = torch.zeros_like(parameter)
        rule = self.param_groups[0]
        rmsprop_step(
            Slots(
                [p for p, _ in moving],
                [p.grad for p, _ in moving if p.grad is not None],
                [self.state[p]["square_avg"] for p, _ in moving],
                [self.state[p]["momentum_buffer"] for p, _ in moving],
                [decay for _, decay in moving],
            ),
            rule["lr"],
            alpha=rule["alpha"],
            eps=rule["eps"],
            momentum=rule["momentum"],
            scale=getattr(self, "grad_scale", None),
            found_inf=getattr(self, "found_inf", None),
            table=self._table,
        )


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
    """EMA of a model's parameters and buffers, held in `model`, a copy of it.

    Whole numbers (BatchNorm's counters) are copied. Buffers are averaged like parameters, as in timm's and NVIDIA's.
    """

    def __init__(self, model: nn.Module, cfg: Ema) -> None:
        if cfg.decay is None:
            raise ValueError("ema.decay is none: there is no average to keep")
        self._decay, self._warmup = cfg.decay, cfg.warmup
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._ours, self._theirs = _tensors(self.model), _tensors(model)
        self._table = Table()

    def decay(self, step: int) -> float:
        """Return the share of the average that stays at step number `step` (the first is 1)."""
        return min(self._decay, (1 + step) / (10 + step)) if self._warmup else self._decay

    def update(self, decay: float | Tensor) -> None:
        """Move the average towards the model; `decay` as `decay()` gives it, or a tensor on the device."""
        ema_update(self._ours, self._theirs, decay, self._table)


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
