"""The command `raydet`: verbs, settings, exit codes. The only file that ends the process."""

import errno
import importlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from raydet.cli import HelpShown
from raydet.exceptions import ConfigError, DataError, RaydetError, Refused, StorageFull

DONE, INTERRUPTED, TERMINATED = 0, 130, 143
FAILED, USAGE, REFUSED = RaydetError.exit_code, ConfigError.exit_code, Refused.exit_code
BAD_DATA, STORAGE_FULL = DataError.exit_code, StorageFull.exit_code
"""Exit codes, most of them `raydet.exceptions`'s; 130: ended by Ctrl-C; 143: by SIGTERM."""

_GOES_ON = {
    "fit": "; the same command continues from the last checkpoint",
    "tune": "; the same command continues where it was left",
}

MOST_LINES = 6
"""An error is no longer than this."""

_ABOUT = """\
raydet trains EfficientNet classifiers and EfficientDet detectors on Ray, from
a laptop to a cluster.

  raydet fit RECIPE [--section.field value ...]   train, or continue a run
  raydet tune RECIPE --space lr_wd                search for better settings
  raydet evaluate CHECKPOINT [--split val]        score a model on a split
  raydet check RECIPE-or-DATA                     look through a data set
  raydet convert DATA OUT --to coco               write it as COCO or YOLO
  raydet predict CHECKPOINT IMAGES...             find things in images
  raydet export CHECKPOINT OUT.onnx               write an ONNX file
  raydet checkpoint list|verify RUN               what it saved, whether whole
  raydet bench step                               time a training step

`raydet VERB --help` shows the flags of a verb, `raydet fit --help` the recipes,
`raydet fit RECIPE --help` every setting with its value and meaning.

Exit codes: 0 done, 1 failed, 2 configuration or usage, 3 refused for safety,
65 bad data, 75 storage full, 130 Ctrl-C, 143 SIGTERM.
"""

_OTHER_VERBS = {
    "train": "fit",
    **dict.fromkeys(("val", "validate", "test", "eval"), "evaluate"),
    **dict.fromkeys(("detect", "infer", "inference"), "predict"),
    **dict.fromkeys(("search", "hpo", "sweep"), "tune"),
    "onnx": "export",
    "benchmark": "bench",
}
"""What other programs call a verb -> ours."""


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its code."""
    signal.signal(signal.SIGTERM, _terminate)
    warnings.formatwarning = _one_line
    sys.exit(run(sys.argv[1:] if words is None else words))


_received: list[int] = []
"""Signals that ended the command; Ray turns whatever a handler raises into a KeyboardInterrupt."""


def _terminate(number: int, frame: object) -> None:
    """End the command as Ctrl-C does: batch systems send SIGTERM some time before they kill."""
    _received.append(number)
    raise KeyboardInterrupt


def _one_line(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> str:
    """Show a warning as a message; where in raydet it comes from says nothing to a user."""
    kind = "" if category in (UserWarning, RuntimeWarning) else f" ({category.__name__})"
    return f"raydet: warning: {message}{kind}\n"


def run(words: Sequence[str]) -> int:
    """Run one command; return its exit code. Expected errors are one short message on standard error."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(_ABOUT, end="")
        return DONE if words else USAGE
    if words[0] == "--version":
        import raydet

        print(f"raydet {raydet.__version__}")
        return DONE
    code: int | None
    try:
        return _verb(words[0])(list(words[1:])) or DONE
    except HelpShown:
        return DONE
    except KeyboardInterrupt:
        code, what = (TERMINATED, "terminated") if _received else (INTERRUPTED, "interrupted")
        message = what + _GOES_ON.get(words[0], "")
    except BrokenPipeError:  # `raydet ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("raydet"):
            raise
        code, message = FAILED, f"{sys.executable} has no {error.name}; use the Python that raydet is installed in"
    except Exception as error:
        code, message = exit_code(error), str(error)
        if code is None:
            raise
    return _say(code, message, "--json" in words)


def _verb(name: str) -> Callable[[list[str]], int | None]:
    if name not in VERBS:
        from raydet.config import nearest

        meant = _OTHER_VERBS.get(name) or next(iter(nearest(name, VERBS, 1)), None)
        hint = f"; did you mean `raydet {meant}`?" if meant else ""
        raise ConfigError(f"no verb {name!r}; there are {', '.join(VERBS)}{hint}")
    module, _, function = VERBS[name].partition(":")
    verb: Callable[[list[str]], int | None] = getattr(importlib.import_module(f"raydet.cli.{module}"), function)
    return verb


def _say(code: int, message: str, as_json: bool) -> int:
    short = "\n".join(message.strip().splitlines()[:MOST_LINES])
    print(f"raydet: {short}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": short, "exit_code": code}), flush=True)
    return code


def exit_code(error: BaseException) -> int | None:
    """Return the exit code of an expected error; None for a defect of raydet, whose traceback must be seen."""
    if isinstance(error, RaydetError):
        return error.exit_code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return STORAGE_FULL
    return None


VERBS = {
    "fit": "fit:run",
    "tune": "tune:run",
    "checkpoint": "checkpoint:run",
    **{verb: f"commands:{verb}" for verb in ("evaluate", "predict", "export", "check", "convert", "bench")},
}
"""Verb -> module and function; imported when it is called, for `raydet --help` to come at once."""

if __name__ == "__main__":
    main()
