"""The EMA (exponential moving average) of a model's weights."""

import copy

from torch import Tensor, nn

from raydet.config import Ema
from raydet.ops import ema_update
from raydet.ops.multi_tensor import PointerTable


class ModelEma:
    """EMA of a model's parameters and buffers, held in `model`, a copy of it.

    Whole numbers (BatchNorm's counters) are copied. Buffers are averaged like parameters, as in timm's and NVIDIA's.
    """

    def __init__(self, model: nn.Module, cfg: Ema) -> None:
        if cfg.decay is None:
            raise ValueError("ema.decay is none: there is no average to keep")
        self._decay, self._warmup = cfg.decay, cfg.warmup
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._ours, self._theirs = _tensors(self.model), _tensors(model)
        self._table = PointerTable()

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
