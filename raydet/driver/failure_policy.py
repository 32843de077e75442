"""What a failed attempt means: whether a restart may cure it, and one line that says what happened."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from raydet.exceptions import RaydetError, RunFailed

_DEFECT = (TypeError, AttributeError, NameError, LookupError, AssertionError, ImportError, NotImplementedError)
"""What no restart cures either, and nobody expects: its traceback must be seen."""
_LONGEST = 300
_CONTROLLER = "Ray Train's controller"


def causes_of(error: BaseException) -> dict[str, BaseException]:
    """Return who failed -> what it met, without what Ray Train wrapped around it."""
    workers = getattr(error, "worker_failures", None) or {}
    causes = {f"worker {rank}": _unwrapped(e) for rank, e in workers.items()}
    return causes or {_CONTROLLER: _unwrapped(getattr(error, "controller_failure", None) or error)}


def _unwrapped(error: BaseException) -> BaseException:
    while not _is_final(error):
        inner = getattr(error, "cause", None) or getattr(error, "health_check_failure", None)
        if not isinstance(inner, BaseException):
            return error
        error = inner
    return error


@dataclass(frozen=True)
class FailureDecision:
    """What to do about a failed attempt."""

    restart: bool
    """Whether another attempt may get further."""
    reason: str
    """One line: who met what."""
    error: BaseException
    """What to raise where there is no restart: the worker's own error, or one that says what to change."""


def decide(causes: Mapping[str, BaseException], trace: str = "") -> FailureDecision:
    """Return what to do after workers met `causes`.

    Args:
        causes: who -> what it met, at least one.
        trace: Ray's account of all failures, added to an error that nobody expects.
    """
    for who, cause in causes.items():
        if _is_final(cause):
            return FailureDecision(False, describe(who, cause), cause)
    for who, cause in causes.items():
        if isinstance(cause, _DEFECT):
            cause.add_note(trace)
            return FailureDecision(False, describe(who, cause), cause)
    for who, cause in causes.items():
        if _is_gpu_out_of_memory(cause):
            error = RunFailed(
                f"{describe(who, cause)}\nThe GPU's memory does not suffice; lower data.batch_size. Where "
                "optim.batch_size is set the images per step stay the same"
            )
            return FailureDecision(False, describe(who, cause), error)
    # A worker that was killed says more than the others, who only saw the connection break.
    who = min(causes, key=lambda who: _is_broken_connection(causes[who]))
    return FailureDecision(True, describe(who, causes[who]), causes[who])


def _is_final(error: BaseException) -> bool:
    """Say whether raydet's own checks raised it and a restart would only meet it again."""
    return isinstance(error, RaydetError) and not error.restart_helps


def _is_gpu_out_of_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("torch")


def _is_broken_connection(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and bool(re.search("[Cc]onnection (closed|reset|refused)", str(error)))


def _died(error: BaseException) -> bool:
    return type(error).__name__ == "ActorDiedError"


def describe(who: str, error: BaseException) -> str:
    """Return one line: who met what."""
    text = str(error)
    if _is_broken_connection(error):
        return f"{who} lost the connection to another"
    if not _died(error):
        return f"{who} met {type(error).__name__}: {' '.join(text.split())[:_LONGEST]}"
    pid, ip = (re.search(rf"\b{name}: (\S+)", text) for name in ("pid", "ip"))
    place = f" (process {pid[1]} on {ip[1]})" if pid and ip else ""
    return f"{who}{place} died: killed, perhaps for want of memory, or crashed"
