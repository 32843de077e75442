"""Freed memory stays with the process, so that a step costs no page faults."""

import subprocess
import sys

import pytest
import torch

from raydet.training.memory import most_memory_bytes

FAULTS = """
import resource, sys, torch
from raydet.training.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()

def step():
    layers = [torch.ones(1 << bits) for bits in (22, 23, 24, 20)]
    [layer * 2 for layer in layers]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(4):
    step()
before = faults()
for _ in range(4):
    step()
print(faults() - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.soak
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_memory_that_is_kept_is_not_faulted_in_again() -> None:
    left = faults("leave")
    assert left > 1000  # 4 x 236 MB in pages of 4 KiB, or of 64 KiB
    assert faults("keep") < left / 4


def test_a_process_knows_its_largest_size() -> None:
    before = most_memory_bytes(torch.device("cpu"))
    kept = torch.ones(1 << 26)
    assert most_memory_bytes(torch.device("cpu")) >= before and kept.numel() * 4 < most_memory_bytes(
        torch.device("cpu")
    )
