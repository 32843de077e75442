"""`raydet checkpoint`: what a run has saved, and whether it is whole."""

from pathlib import Path
from typing import Any

from raydet.cli.parser import VerbParser, print_result
from raydet.exceptions import CheckpointError, ConfigError

_SHOWN = ("AP", "AP50", "top1", "train_loss")


def run(words: list[str]) -> int:
    """List or verify checkpoints; return the exit code: 0, or 65 where one of them is damaged."""
    parser = VerbParser(
        "checkpoint",
        "List the checkpoints of a run, or read every byte of them again and compare it with its SHA-256.",
        examples=("raydet checkpoint list runs/shop", "raydet checkpoint verify runs/shop --json"),
    )
    parser.add_argument("what", choices=("list", "verify"), help="list: names, scores, sizes; verify: every byte too")
    parser.add_argument("run", help="a run's folder, or a checkpoint's")
    options, _ = parser.parse(words)
    rows = _rows(Path(options.run).expanduser(), verify=options.what == "verify")
    damaged = [row for row in rows if "damaged" in row]
    if options.json:
        print_result({"checkpoints": rows, "damaged": len(damaged)}, True)
    else:
        print("\n".join(map(_line, rows)))
        if options.what == "verify":
            print(f"{len(rows) - len(damaged)} of {len(rows)} checkpoints are whole")
    return CheckpointError.exit_code if damaged else 0


def _rows(path: Path, *, verify: bool) -> list[dict[str, Any]]:
    from raydet.runs import checkpoint, checkpoint_store
    from raydet.runs.layout import CHECKPOINTS

    folder = path / CHECKPOINTS
    found = checkpoint_store.entries(folder) if folder.is_dir() else []
    if (path / checkpoint.MANIFEST).exists():
        found = [path]
    if not found:
        raise ConfigError(f"{path} holds no checkpoint: name a run's folder, or one of its checkpoints/step_*")
    rows: list[dict[str, Any]] = []
    for each in found:
        row: dict[str, Any] = {"path": str(each), "bytes": checkpoint_store.size_bytes(each)}
        try:
            saved = checkpoint.read(each) if verify else checkpoint.peek(each)
            row |= {"step": saved.step, "epoch": saved.epoch, "metrics": saved.metrics}
        except CheckpointError as error:
            row["damaged"] = str(error)
        rows.append(row)
    return rows


def _line(row: dict[str, Any]) -> str:
    name, size = Path(row["path"]).name, f"{row['bytes'] / 2**20:.1f} MiB"
    if "damaged" in row:
        return f"{name}  {size:>10}  damaged: {row['damaged']}"
    metrics = row["metrics"]
    scores = "".join(f"  {key} {metrics[key]:.4f}" for key in _SHOWN if key in metrics)
    return f"{name}  {size:>10}  epoch {row['epoch']}{scores}"
