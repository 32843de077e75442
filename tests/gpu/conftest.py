"""What all GPU tests share: whatever a test chose or watched for is as before after it."""

from collections.abc import Iterator

import pytest
import torch

from raydet.ops import choose


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    choose("auto")
    torch.cuda.set_sync_debug_mode("default")
