"""A CUDA graph's meaning on a CPU: what torch did is written down once and done again, same numbers, same places.

Like a graph it keeps every Python number of the first time, writes results where they were the first time, and knows
nothing of the host's code; unlike one it runs on any device. What would ask a GPU for a value is refused.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
ASKING = {
    _aten._local_scalar_dense.default: "a value is asked for (.item(), bool(), float())",
    _aten.nonzero.default: "a shape depends on values",
    _aten.masked_select.default: "a shape depends on values",
    _aten.lift_fresh.default: "a tensor is made of the host's numbers",
}


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in ASKING, f"{func}: {ASKING[func]}"
        masks = func is _aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1])
        assert not masks, f"{func}: a shape depends on values"
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, out))
        return out


def capture_on_cpu(work: Callable[[], None]) -> Callable[[], None]:
    """Record `work`; return what does it again. Recording already does it, so the first time again is left out."""
    recorder = _Recorder()
    with recorder:
        work()
    pending = True

    @torch.no_grad()
    def replay() -> None:
        nonlocal pending
        if pending:
            pending = False
            return
        for func, args, kwargs, before in recorder.calls:
            for place, new in zip(tree_leaves(before), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(place, torch.Tensor) and place.data_ptr() != new.data_ptr():
                    place.copy_(new)

    return replay
