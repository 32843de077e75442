"""How the weights move: optimisers with the documented groups, clipping, freezing."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raydet.config import Optim
from raydet.ops import rmsprop_step
from raydet.ops.multi_tensor import PointerTable, Slots

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
        optimizer = torch.optim.SGD(groups, lr=cfg.lr, momentum=cfg.momentum, fused=True)
        # torch makes them without a value at the first step, which may be skipped on the device; from 0 all is the same
        for tensor in [*decayed, *spared] if cfg.momentum else []:
            optimizer.state[tensor]["momentum_buffer"] = torch.zeros_like(tensor)
        return optimizer
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
        self._table = PointerTable()

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


@torch.no_grad()
def clip_gradients(parameters: Sequence[Tensor], longest: float | None) -> Tensor:
    """Scale all gradients together to a global L2 norm of at most `longest` (None: any); return the norm before."""
    if longest is None:
        return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
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
