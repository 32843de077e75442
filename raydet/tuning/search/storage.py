"""A search's record on disk: Optuna's journal."""

from pathlib import Path
from typing import Any

from raydet.io.files import LineFile

JOURNAL = "optuna.journal"


def open_storage(folder: Path) -> Any:
    """Return the storage in a search's folder. What a kill left is put right first: a torn line, a lock."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = folder / JOURNAL
    LineFile(path).close()  # cuts the torn line: the next one would be appended to it, and none could be read any more
    path.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)  # the search's folder is held, so nobody is writing
    return JournalStorage(JournalFileBackend(str(path)))
