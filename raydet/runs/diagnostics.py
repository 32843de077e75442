"""diagnostics/ in a run's folder: what was met on the way that somebody should look at."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from raydet.io.jsonable import JSON

SKIPPED_STEPS = "diagnostics/skipped_steps.jsonl"
"""A line for each step that was taken back (its images), for each time that training went back to a checkpoint, and for
its end if it gave up."""
_BACK_TO, _GIVEN_UP = "back_to_step", "given_up"


def write_skipped_steps(folder: Path, lines: Sequence[Mapping[str, JSON]]) -> None:
    """Add lines to a run's list of skipped steps."""
    path = folder / SKIPPED_STEPS
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def skipped(epoch: int, step: int, images: Sequence[str]) -> dict[str, JSON]:
    """Return the line of a step that was taken back; epoch and step count from 1."""
    return {"epoch": epoch, "step": step, "images": [*images]}


def back_to(step: int, lr_factor: float) -> dict[str, JSON]:
    """Return the line for training that went back to a checkpoint."""
    return {_BACK_TO: step, "lr_factor": lr_factor}


def write_given_up(folder: Path, why: str) -> None:
    """Note that training ended because its numbers were not finite."""
    write_skipped_steps(folder, [{_GIVEN_UP: why}])


def note_new_attempt(folder: Path, step: int) -> None:
    """Note that training tries again after it gave up."""
    if has_given_up(folder):
        write_skipped_steps(folder, [{"tries_again_from_step": step}])


def has_given_up(folder: Path) -> bool:
    """Whether the last that was written down is that training ended for its numbers."""
    with suppress(OSError, ValueError, IndexError):
        return _GIVEN_UP in json.loads((folder / SKIPPED_STEPS).read_text(encoding="utf-8").splitlines()[-1])
    return False


def in_words(line: str) -> str | None:
    """Return what a line says to people; None for one that says nothing new."""
    with suppress(ValueError, KeyError, TypeError):
        values = json.loads(line)
        if _BACK_TO in values:
            lr = f"{values['lr_factor']:g} of the schedule's"
            return f"training goes back to step {values[_BACK_TO]}, with a learning rate of {lr} from there"
        if "images" in values:
            where = f"epoch {values['epoch']}, step {values['step']}"
            return f"{where}: loss or gradient not finite; the step is taken back, its images are in {SKIPPED_STEPS}"
    return None
