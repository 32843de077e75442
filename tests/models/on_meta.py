"""Models without values: keys, shapes and settings alone, at a fraction of the time."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor


@contextmanager
def on_meta() -> Iterator[None]:
    """Build on the meta device, where drawing first values changes nothing and takes most of the time."""

    def unchanged(values: Tensor, *arguments: float, **options: object) -> Tensor:
        return values

    with (
        torch.device("meta"),
        patch.object(Tensor, "normal_", unchanged),
        patch.object(Tensor, "uniform_", unchanged),
    ):
        yield
