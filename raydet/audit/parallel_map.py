"""One function over many parts, as Ray tasks on a cluster; `raydet.data.loading.parallel` does it on this machine."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

Part = TypeVar("Part")
Answer = TypeVar("Answer")


def on_ray(work: Callable[[Part], Answer], parts: Sequence[Part]) -> Iterator[Answer]:
    """Yield work(part) for each part, as they are done, by tasks of the Ray that this process has joined."""
    import ray

    task = ray.remote(num_cpus=1, max_retries=2)(_call)
    most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    left, running = iter(parts), []
    while True:
        for part in left:
            running.append(task.remote(work, part))
            if len(running) >= most:
                break
        if not running:
            return
        done, running = ray.wait(running)
        yield from ray.get(done)


def _call(work: Callable[[Any], Any], part: Any) -> Any:
    return work(part)
