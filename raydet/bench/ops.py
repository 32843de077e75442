"""`raydet bench ops`: each of raydet's operations beside PyTorch's own words for it, compiled ones, and the peers'.

A row says how long a call takes, how many times the floor that is (the fewest bytes the operation can move, at the copy
bandwidth measured in the same run), how many kernels it launches and how much memory it needs on top.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from raydet.bench.op_cases import CASES, Case
from raydet.bench.timing import Times, copy_bandwidth, in_turn, launches, machine, on_device, temporary_bytes
from raydet.exceptions import ConfigError

Row = dict[str, Any]


def bench_ops(
    device_name: str,
    only: Sequence[str] | None = None,
    rounds: int = 5,
    *,
    compiled: bool | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Return a row for each side of each operation.

    Args:
        device_name: cpu or cuda. A CPU computes with one thread.
        only: names of operations; None: all.
        rounds: times each side is timed, in turn.
        compiled: time torch.compile's form too. None: on a GPU only; a CPU compiles for minutes.
        say: called with each line when it is known.

    Raises:
        ConfigError: no such operation or device.
    """
    unknown = set(only or ()) - CASES.keys()
    if unknown:
        raise ConfigError(f"--only: no operation {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    if device_name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no CUDA GPU on this machine")
    device = torch.device(device_name)
    torch.set_num_threads(1)
    bandwidth = copy_bandwidth(device)
    rows = []
    for name in only or CASES:
        case = CASES[name](device, device.type == "cuda" if compiled is None else compiled)
        for row in _measured(name, case, device, rounds, bandwidth):
            rows.append(row)
            say(line(row))
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return rows


def _measured(name: str, case: Case, device: torch.device, rounds: int, bandwidth: float) -> list[Row]:
    if device.type == "cuda":  # queued up, so that a small one is not timed by how fast Python launches it
        times = {side: _queued(work, rounds) for side, work in case.sides.items()}
    else:
        times = in_turn(case.sides, device, rounds)
    floor_s = case.floor_bytes / bandwidth
    common = {"op": name, "size": case.size, "machine": machine(device), "torch": torch.__version__, "rounds": rounds}
    common |= {"floor_bytes": case.floor_bytes, "copy_bytes_per_s": bandwidth}
    return [
        {
            **common,
            "side": side,
            "seconds": taken.median,
            "least_s": taken.least,
            "most_s": taken.most,
            "times_floor": taken.median / floor_s,
            "times_ours": taken.median / times["raydet"].median,
            "launches": launches(case.sides[side], device),
            "temporary_bytes": temporary_bytes(case.sides[side], device),
        }
        for side, taken in times.items()
    ]


def _queued(work: Callable[[], object], rounds: int) -> Times:
    seconds = sorted(on_device(work) for _ in range(rounds))
    return Times(seconds[len(seconds) // 2], seconds[0], seconds[-1])


def line(row: Row) -> str:
    """Return one row as text."""
    memory = "" if row["temporary_bytes"] is None else f", {row['temporary_bytes'] / 2**20:.0f} MiB more"
    kernels = "" if row["launches"] is None else f", {row['launches']} launches"
    return (
        f"{row['op']:16} {row['side']:14} {_scaled(row['seconds']):>9}  {row['times_ours']:6.2f} x ours"
        f"  {row['times_floor']:7.1f} x the floor{kernels}{memory}"
    )


def _scaled(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


def print_rows(rows: Sequence[Row]) -> None:
    """Print the rows, each operation under its size."""
    for i, row in enumerate(rows):
        if i == 0 or row["op"] != rows[i - 1]["op"]:
            print(f"\n{row['op']}: {row['size']}; at least {row['floor_bytes'] / 2**20:.1f} MiB to move")
        print(line(row))
    if rows:
        first = rows[0]
        bandwidth = first["copy_bytes_per_s"] / 1e9
        print(
            f"\n{first['machine']}, torch {first['torch']}, copies {bandwidth:.1f} GB/s, n={first['rounds']}, medians"
        )


def markdown(rows: Sequence[Row]) -> list[str]:
    """Return the rows as lines of a Markdown table."""
    lines = [
        "| operation | size | side | time | x ours | x floor | launches | MiB more |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        memory = "" if row["temporary_bytes"] is None else f"{row['temporary_bytes'] / 2**20:.0f}"
        lines.append(
            f"| {row['op']} | {row['size']} | {row['side']} | {_scaled(row['seconds'])} | {row['times_ours']:.2f} "
            f"| {row['times_floor']:.1f} | {row['launches'] or ''} | {memory} |"
        )
    return lines
