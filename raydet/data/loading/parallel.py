"""One function over many parts, with all the cores of this machine: loader processes, forked where that is safe."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

Part = TypeVar("Part")
Answer = TypeVar("Answer")


def here(
    work: Callable[[Part], Answer], parts: Sequence[Part], processes: int, forkable: bool = True
) -> Iterator[Answer]:
    """Yield work(part) for each part, in order, made by forked processes; in this one if there are 0.

    Args:
        work: importable, and picklable where `forkable` is False.
    """
    if processes == 0 or len(parts) < 2:
        yield from map(work, parts)
        return
    from torch.utils.data import DataLoader

    start = "fork" if forkable else "forkserver"
    loader: Any = DataLoader(
        _Parts(work, parts),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=min(processes, len(parts)),
        collate_fn=_unchanged,
        multiprocessing_context=start,
    )
    yield from loader


def _unchanged(answer: Any) -> Any:
    return answer


class _Parts:
    def __init__(self, work: Callable[[Any], Any], parts: Sequence[Any]) -> None:
        self._work, self._parts = work, parts

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, i: int) -> Any:
        return self._work(self._parts[i])
