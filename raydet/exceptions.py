"""The errors that raydet raises on purpose: one tree, each with an exit code of the command line.

`except raydet.RaydetError` catches all of them; whatever else comes out of raydet is a defect. Each class is also the
built-in type that it is a case of (ValueError, OSError, ...), and says whether a new start of the same run may succeed.
"""

import errno
import os
from pathlib import Path


class RaydetError(Exception):
    """What raydet refuses or cannot do; the message says what, where, and the remedy."""

    exit_code = 1
    """What the command line ends with: 1 failed, 2 configuration or usage, 3 refused for safety, 65 bad data or files,
    75 storage full."""
    restart_helps = False
    """Whether a new start of the same run may get further: a machine is lost, not the data wrong."""


class ConfigError(RaydetError, ValueError):
    """A configuration value that cannot be used. The message starts with the field's dotted name."""

    exit_code = 2


class Refused(RaydetError, RuntimeError):
    """Not done, for safety."""

    exit_code = 3


class Cancelled(RaydetError, RuntimeError):
    """A `fit` that was ended by its Cancel."""


class Stopped(RaydetError, RuntimeError):
    """Training that was asked to stop and has saved a checkpoint of its last step."""

    exit_code = 143


class LostWorkers(RaydetError, RuntimeError):
    """Workers died, or failed in a way that a restart may cure."""

    restart_helps = True


class RunFailed(RaydetError, RuntimeError):
    """A run that could not be trained to its end: Ray does not start, or the workers failed too often."""


class NonFiniteLoss(RaydetError, FloatingPointError):
    """The loss is NaN or infinite."""


class DataError(RaydetError, ValueError):
    """The data cannot be used as they are: where, which record, what, the rule's name, and what to do about it."""

    exit_code = 65

    def __init__(
        self,
        what: str,
        *,
        rule: str,
        file: object = None,
        record: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.what, self.rule, self.file, self.record, self.hint = what, rule, file, record, hint
        self.faults: object = None
        """All that was found with it (raydet.data.validation.faults.Faults); None: only this. Stays in its process."""
        place = "".join(f"{one_line(str(part))}: " for part in (file, record) if part is not None)
        super().__init__(f"{place}{one_line(what)} ({rule})" + (f"\n{one_line(hint)}" if hint else ""))

    def __reduce__(self) -> tuple[object, ...]:
        # It travels from loader processes and Ray workers; Exception's own way would lose the keywords.
        keywords = {"rule": self.rule, "file": self.file, "record": self.record, "hint": self.hint}
        return _rebuilt, (self.what, keywords)


def _rebuilt(what: str, keywords: dict[str, object]) -> DataError:
    return DataError(what, **keywords)  # type: ignore[arg-type]


class CheckpointError(RaydetError, ValueError):
    """A checkpoint that cannot be used. The message names the file and the cause."""

    exit_code = 65


class StorageFull(RaydetError, OSError):
    """A checkpoint does not fit, even after old ones were removed. Those left are intact."""

    exit_code = 75

    def __init__(self, path: Path, need_bytes: int, free_bytes: int) -> None:
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self.path, self.need_bytes, self.free_bytes = path, need_bytes, free_bytes

    def __reduce__(self) -> tuple[type["StorageFull"], tuple[Path, int, int]]:  # Ray pickles it
        return type(self), (self.path, self.need_bytes, self.free_bytes)

    def __str__(self) -> str:
        return (
            f"no room for a checkpoint in {self.path}: {self.need_bytes / 1e6:.1f} MB needed, "
            f"{self.free_bytes / 1e6:.1f} MB free. Free some space or set run.storage_path to another disk; "
            "the same command then continues the run"
        )


class WeightsError(RaydetError, ValueError):
    """A weight file that is missing, unreadable, unsafe, or does not fit the model."""

    exit_code = 65


class UnsafeWeights(WeightsError):
    """A weight file that holds code. None of it was run."""

    exit_code = 3


class CheckpointMismatch(WeightsError):
    """A file whose ranges are not those of the model's fake-quantizers."""


class CalibrationError(RaydetError, RuntimeError):
    """Ranges cannot be found on these batches."""


class NotCalibratedError(RaydetError, RuntimeError):
    """Fake-quantizers without a range."""


class QuantizationNotAvailable(ConfigError):
    """The library of quantization.backend is not installed."""


class ExportError(RaydetError, RuntimeError):
    """The exported graph is not what was asked for."""


def one_line(text: str, longest: int = 400) -> str:
    """Return `text` with line breaks and control characters spelt out and its middle cut, fit for a message."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= longest else f"{text[: longest // 2]}...{text[-longest // 2 :]}"
