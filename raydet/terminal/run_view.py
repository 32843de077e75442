"""What a run shows while it goes: on a terminal a table that grows and a bar below it, elsewhere one line per epoch.

The driver follows the run's own log.json and metrics.jsonl, which rank 0 writes in the shared folder. Nothing is
printed by workers, so Ray repeats nothing (it shows every print of a worker twice, Ray 2.60), and the same view
serves every number of workers, Ray or none.
"""

import io
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raydet.runs import run_log
from raydet.terminal.run_status import (
    Board,
    Column,
    Figures,
    columns_of,
    duration,
    number,
    rate_text,
    share_text,
    wait_share,
)

POLL_S = 0.25
PLAIN_EVERY_S = 30.0
"""Within an epoch a line each so many seconds where there is no terminal."""

_GAP = "  "

Notes = Callable[[Figures], str | None]
"""Takes each epoch's figures; returns what is to be said of them, if anything."""


def _nothing(row: Figures) -> None:
    return None


def follow(
    folder: Path,
    task: str,
    epochs: int,
    stop: threading.Event,
    out: TextIO,
    from_step: int = 0,
    notes: Notes = _nothing,
) -> None:
    """Show the run in `folder` until `stop` is set, then what is still unshown; meant for a thread of the driver.

    Call it before the run writes: what the files hold at the start is an earlier attempt's and not shown. It never
    fails: when `out` is gone it ends.

    Args:
        folder: the run's folder; need not exist yet.
        task: detection or classification.
        epochs: epochs of the whole run.
        from_step: steps that were done before.
        notes: what it says of an epoch is shown below the epoch's line.
    """
    board = Board(folder, task, epochs, from_step)
    console = Console(file=out)
    try:
        if out.isatty() and not console.is_dumb_terminal:
            _follow_terminal(board, console, stop, notes)
        else:
            _follow_plain(board, out, stop, notes)
    except (OSError, ValueError):  # a closed pipe or file: the run goes on unseen
        return


@contextmanager
def watched(follow: Callable[[threading.Event], None]) -> Iterator[None]:
    """Have `follow` show what goes on, in a thread, while the body runs; the event tells it of the end."""
    stop = threading.Event()
    viewer = threading.Thread(target=follow, args=(stop,), name="raydet-console", daemon=True)
    viewer.start()
    try:
        yield
    finally:
        stop.set()
        viewer.join(timeout=10)


def _follow_terminal(board: Board, console: Console, stop: threading.Event, notes: Notes = _nothing) -> None:
    columns = fitting(columns_of(board.task, board.epochs), console.width)
    headed = False
    mine = console.file is sys.stdout  # then other prints of this process appear above the bar
    with Live(status(board), console=console, auto_refresh=False, transient=True, redirect_stdout=mine) as live:
        stopped = False
        while not stopped:
            stopped = stop.wait(POLL_S)
            for alarm in board.alarms():
                console.print(Text(_note(alarm)))
            for row in board.poll():
                if not headed:
                    console.print(head(columns))
                    headed = True
                console.print(line(columns, row))
                if (said := notes(row)) is not None:
                    console.print(Text(_note(said)))
            live.update(status(board), refresh=True)


def _follow_plain(board: Board, out: TextIO, stop: threading.Event, notes: Notes = _nothing) -> None:
    last = board.time() - PLAIN_EVERY_S
    stopped = False
    while not stopped:
        stopped = stop.wait(POLL_S)
        for alarm in board.alarms():
            _say(out, _note(alarm))
        rows = board.poll()
        for row in rows:
            _say(out, plain_epoch(board, row))
            if (said := notes(row)) is not None:
                _say(out, _note(said))
        if rows:
            last = board.time()
        elif not stopped and board.time() - last >= PLAIN_EVERY_S:
            last = board.time()
            _say(out, plain_step(board))


def _note(text: str) -> str:
    return f"note      {text}"


def _say(out: TextIO, text: str) -> None:
    out.write(text + "\n")
    out.flush()


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Return as many of the columns as `width` characters hold, the first at least."""
    kept = list(columns)
    while len(kept) > 1 and sum(c.width + len(_GAP) for c in kept) - len(_GAP) > width:
        kept.pop()
    return kept


def head(columns: Sequence[Column]) -> Text:
    """Return the table's head."""
    return Text(_GAP.join(c.title.rjust(c.width) for c in columns), style="bold underline", no_wrap=True)


def line(columns: Sequence[Column], row: Figures) -> Text:
    """Return an epoch's line of the table."""
    return Text(_GAP.join([*(c.value(row).rjust(c.width) for c in columns), *_left_out(row)]), no_wrap=True)


def _left_out(row: Figures) -> list[str]:
    count = sum(number(row, name) or 0 for name in (run_log.BAD_IMAGES, run_log.EVAL_BAD_IMAGES))
    return [f"{count:.0f} bad images left out, see bad_images.txt"] if count else []


def status(board: Board) -> RenderableType:
    """Return the two lines below the table: the bar with the times, and what the run does now."""
    if not board.running:
        return Text(f"starting ...  {duration(board.elapsed_s)}", style="dim")
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(no_wrap=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    total = max(1, board.epochs * board.steps)
    bar.add_row(
        Text(f"{board.done / total:4.0%}" if board.steps else "   ?"),
        ProgressBar(total=total, completed=min(total, board.done)),
        Text(f"elapsed {duration(board.elapsed_s)}  left {duration(board.left_s)}"),
    )
    return Group(bar, Text(_GAP.join(_now(board)), style="dim", no_wrap=True, overflow="ellipsis"))


def _now(board: Board) -> list[str]:
    parts = [f"epoch {min(board.epoch + 1, board.epochs)}/{board.epochs}"]
    if board.evaluating:
        return [*parts, "evaluating"]
    parts.append(f"step {board.batch}/{board.steps or '?'}")
    loss = number(board.figures, run_log.TRAIN_LOSS, run_log.CLS_TRAIN_LOSS)
    rate = number(board.figures, run_log.TRAIN_THROUGHPUT, run_log.CLS_TRAIN_TOTAL_IPS)
    share = wait_share(board.figures)
    parts += [f"loss {loss:.4f}"] if loss is not None else []
    parts += [f"{rate_text(rate)} images/s"] if rate is not None else []
    parts += [f"waits for data {share_text(share)}"] if share is not None else []
    return parts


def plain_step(board: Board) -> str:
    """Return the line for within an epoch, or for before the first step."""
    if not board.running:
        return f"starting ...  {duration(board.elapsed_s)}"
    return _GAP.join([*_now(board), *_times(board)])


def plain_epoch(board: Board, row: Figures) -> str:
    """Return an epoch's line for logs and pipes: each figure under its name."""
    columns = columns_of(board.task, board.epochs)
    named = [(c.title, c.value(row)) for c in columns]
    parts = [f"{title} {value}" for title, value in named if value != "-"]
    return _GAP.join([*parts, *_left_out(row), *_times(board)])


def _times(board: Board) -> list[str]:
    left = board.left_s
    return [f"elapsed {duration(board.elapsed_s)}", *([f"left {duration(left)}"] if left is not None else [])]


def render(view: RenderableType, width: int = 80) -> str:
    """Return what `view` looks like, as plain text of so many columns."""
    console = Console(record=True, width=width, file=io.StringIO(), color_system=None)
    console.print(view)
    return console.export_text()
