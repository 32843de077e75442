"""The command `raydet`: verbs, settings, exit codes. The only file that ends the process, and that imports tyro."""

import argparse
import errno
import io
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from raydet import verbs
from raydet.config import Config, ConfigError, load, nearest, override
from raydet.verbs import new_parser, parse, print_result

DONE, FAILED, USAGE, REFUSED, BAD_DATA, STORAGE_FULL, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 65, 75, 130, 143
"""Exit codes. 2: bad configuration or usage; 3: refused for safety; 130: ended by Ctrl-C; 143: by SIGTERM."""

_GOES_ON = {
    "fit": "; the same command continues from the last checkpoint",
    "tune": "; the same command continues where it was left",
}

MOST_LINES = 6
"""An error is no longer than this."""

_ABOUT = """\
raydet trains EfficientNet classifiers and EfficientDet detectors on Ray, from a laptop to a cluster.

  raydet fit RECIPE [--section.field value ...]      train; the same command again continues
  raydet tune RECIPE --space lr_wd                   search for better settings, many trials side by side
  raydet evaluate CHECKPOINT [--split val]           score a checkpoint, or a run's best
  raydet check RECIPE-or-DATA                        look for what is wrong with a data set
  raydet predict CHECKPOINT IMAGES... [--out DIR]    find things in pictures
  raydet export CHECKPOINT OUT.onnx [--target ...]   write an ONNX file, float or INT8
  raydet bench step [--vs effdet]                    time a training step

`raydet fit --help` lists recipes, `raydet fit RECIPE --help` every setting with its value and meaning.
"""


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
        close = nearest(name, VERBS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"no verb {name!r}; there are {', '.join(VERBS)}{hint}")
    return VERBS[name]


def _say(code: int, message: str, as_json: bool) -> int:
    short = "\n".join(message.strip().splitlines()[:MOST_LINES])
    print(f"raydet: {short}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": short, "exit_code": code}), flush=True)
    return code


def exit_code(error: BaseException) -> int | None:
    """Return the exit code of an expected error; None for a defect of raydet, whose traceback must be seen."""
    if isinstance(error, ConfigError):
        return USAGE
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return STORAGE_FULL
    # By name, so that a bad flag does not load torch and Ray just to be told apart from bad data.
    names = {cls.__name__ for cls in type(error).__mro__ if cls.__module__.startswith("raydet")}
    codes = {
        "Refused": REFUSED,
        "DataError": BAD_DATA,
        "CheckpointError": BAD_DATA,
        "UnsafeWeights": REFUSED,
        "WeightsError": BAD_DATA,
        "RunFailed": FAILED,
        "CalibrationError": FAILED,
        "NotCalibratedError": FAILED,
        "ExportError": FAILED,
    }
    if isinstance(error, FloatingPointError):
        return FAILED
    return next((codes[name] for name in codes if name in names), None)


def _fit(words: list[str]) -> None:
    parser = new_parser("fit", "Train. The same command again continues a run, or returns at once from a finished one.")
    parser.add_argument("recipe", nargs="?", help="where the settings start from; see --help")
    parser.add_argument("--from", dest="base", metavar="CONFIG", help="start from the config.json of a run instead")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    options, rest = parse(parser, words)
    if options.help:
        return _fit_help(parser, options.first)
    cfg = _config(options.recipe, options.base, rest)
    if options.dry_run:
        from raydet.dryrun import dry_run

        values = dry_run(cfg, quiet=options.json)
        if options.json:
            print_result(values, True)
        return None
    from raydet.cluster import fit

    result = fit(cfg)
    figures = {"run": str(result.dir), "best": str(result.best), "last": str(result.last)}
    print_result({**figures, **result.metrics}, options.json)
    return None


_NOT_OF_A_SEARCH = ("help", "json", "recipe", "base", "space")
"""What `tune` is told of a range test too."""


def _tune(words: list[str]) -> None:
    parser = new_parser("tune", "Search for better settings; trial 1 is the recipe. The same command again continues.")
    parser.add_argument("recipe", nargs="?", help="where the settings start from; see raydet fit --help")
    parser.add_argument("--from", dest="base", metavar="CONFIG", help="start from a config.json or best.json instead")
    parser.add_argument("--space", help="what is searched: a name, see below, or a Python file with space(cfg)")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=FUNCTION(...)", help="a range")
    parser.add_argument("--num-samples", type=int, default=20, help="trials, the default included; of pbt at a time")
    parser.add_argument("--algorithm", default="tpe", help="tpe, random or pbt (population based training)")
    parser.add_argument("--scheduler", default="asha", help="asha: stop trials early that do worse; none: never")
    parser.add_argument("--objective", dest="objectives", action="append", default=[], help="latency_ms or size_mb")
    parser.add_argument("--concurrent", type=int, help="trials at a time; as many as have room by default")
    parser.add_argument("--budget", help="wall time for the whole search: 45m, 2h, 1d")
    parser.add_argument("--confirm", type=int, default=0, help="repeat default and best with so many other seeds")
    parser.add_argument("--patience", type=int, help="end after so many trials that do not beat the default")
    parser.add_argument("--warm-start", metavar="FOLDER", help="try the best points of an earlier search first")
    parser.add_argument("--dry-run", action="store_true", help="show what would be tried, and do nothing")
    options, rest = parse(parser, words)
    if options.help:
        return _tune_help(parser)
    cfg = _config(options.recipe, options.base, rest)
    if nearest((options.space or "").replace("-", "_"), ["lr_range_test"], 1):
        return _range_test(options, cfg, parser)
    from raydet.tuning.search import setting_of, tune
    from raydet.tuning.told import as_values, lines

    told = {k: v for k, v in vars(options).items() if k not in (*_NOT_OF_A_SEARCH, "dry_run")}
    if options.dry_run:
        from raydet.tuning.dryrun import dry_run

        values = dry_run(setting_of(cfg, options.space, **told), quiet=options.json)
        return print_result(values, True) if options.json else None
    result = tune(cfg, options.space, **told)
    if options.json:
        return print_result(as_values(result), True)
    return print("\n".join(lines(result)))


def _range_test(options: Any, cfg: Config, parser: argparse.ArgumentParser) -> None:
    if options.space.replace("-", "_") != "lr_range_test":
        raise ConfigError(f"no search space {options.space!r}; did you mean lr-range-test?")
    for action in parser._actions:
        name = action.dest
        if name not in _NOT_OF_A_SEARCH and getattr(options, name) != action.default:
            raise ConfigError(f"{action.option_strings[0]}: lr-range-test is one short run and no search; leave it out")
    from raydet.tuning.range_test import lr_range_test

    found = lr_range_test(cfg)  # says itself what it found
    if options.json:
        places = {"table": str(found.table), "figure": str(found.figure)}
        print_result({"optim.lr": found.suggestion, "why": found.why, **places}, True)


def _tune_help(parser: argparse.ArgumentParser) -> None:
    from raydet.search_spaces import SPACES

    print(parser.format_help())
    print("spaces:")
    for name, what in SPACES.items():
        print(f"  {name:14} {what}")
    print(f"  {'lr-range-test':14} no search: one short run that suggests a learning rate")


def _config(recipe: str | None, base: str | None, rest: list[str]) -> Config:
    from raydet import recipes
    from raydet.arguments import parse_changes

    if (recipe is None) == (base is None):
        raise ConfigError("name a recipe, or --from a run's config.json; `raydet fit --help` lists the recipes")
    cfg = recipes.recipe(recipe) if recipe is not None else load(Path(str(base)))
    return override(cfg, parse_changes(rest))


def _fit_help(parser: argparse.ArgumentParser, recipe: str | None) -> None:
    from raydet import recipes

    if recipe is None:
        print(parser.format_help())
        print("recipes:")
        for name in recipes.RECIPES:
            print(f"  {name}")
        return
    import tyro

    parser.prog = f"raydet fit {recipe}"
    print(parser.format_help())
    print(f"settings of {recipe}; a list is written with spaces or commas:")
    plain = (tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands)  # spelt as raydet.arguments reads them
    text = io.StringIO()
    with suppress(SystemExit), redirect_stdout(text):
        tyro.cli(Config, default=recipes.recipe(recipe), args=["--help"], use_underscores=True, config=plain)
    lines = text.getvalue().splitlines()
    first = next((i for i, line in enumerate(lines) if " model options " in line), 0)  # before that it speaks of itself
    print("\n".join(lines[first:]))


VERBS: dict[str, Callable[[list[str]], int | None]] = {
    "fit": _fit,
    "tune": _tune,
    "evaluate": verbs.evaluate,
    "predict": verbs.predict,
    "export": verbs.export,
    "check": verbs.check,
    "bench": verbs.bench,
}

if __name__ == "__main__":
    main()
