"""Trials as TensorBoard's HParams plugin reads them: a file of its own in the folder of each trial that has ended.

Without tensorboardX's SummaryWriter, for the reasons in raydet.runs.writers. No SESSION_LOG of a start is written:
TensorBoard would take it for a restart of the run and forget its curves. Values are the plugin's three types, number,
text and true / false. It has one type for a column, and no None: where a choice has several (`None` or 0.99) all are
text.
"""

import os
import uuid
from collections.abc import Container
from pathlib import Path
from typing import Any

from raydet.io.clock import now
from raydet.io.files import FILE_MODE
from raydet.search_spaces.domains import bounds
from raydet.tuning.trials.rows import Row, Search

_SUFFIX = ".hparams"


def write_hparams(search: Search) -> None:
    """Write each ended trial's values and score beside its curves, once; a trial without a folder is passed over."""
    as_text = {key for key, domain in search.space.domains.items() if len(set(map(_type, bounds(domain)))) > 1}
    for row in search.ran:
        known = any(row.folder.glob(f"events.out.tfevents.*{_SUFFIX}"))
        if row.folder.is_dir() and not known:
            _write(row, search.score, as_text)


def _write(row: Row, score: str, as_text: Container[str]) -> None:
    from tensorboardX.proto import event_pb2, summary_pb2
    from tensorboardX.record_writer import RecordWriter
    from tensorboardX.summary import hparams

    params = {k: str(v) if k in as_text or v is None else v for k, v in row.params.items()}
    stamp, name = now().timestamp(), uuid.uuid4().hex
    metrics = {f"search/{score}": row.score or 0.0} | {f"search/{key}": value for key, value in row.values.items()}
    scalars = [summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in metrics.items()]
    summaries = [*hparams(params, metrics), summary_pb2.Summary(value=scalars)]
    events = [event_pb2.Event(wall_time=stamp, file_version="brain.Event:2")]
    events += [event_pb2.Event(wall_time=stamp, step=row.epochs, summary=summary) for summary in summaries]
    part = row.folder.resolve() / f".tmp-{name}"  # TensorBoard opens files with tfevents in their name
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE))  # RecordWriter would make it 0644
        writer = RecordWriter(str(part))
        for event in events:
            writer.write(event.SerializeToString())
        writer.close()
        os.replace(part, _place(row.folder, stamp, name))
    finally:
        part.unlink(missing_ok=True)


def _place(folder: Path, stamp: float, name: str) -> Path:
    """Return where the file goes: behind the run's own in the order of names, in which TensorBoard reads."""
    return folder / f"events.out.tfevents.{int(stamp):010d}.{name[:12]}{_SUFFIX}"


def _type(value: Any) -> type:
    return float if type(value) is int else type(value)
