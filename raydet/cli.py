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

from raydet.config import Config, ConfigError, load, nearest, override

DONE, FAILED, USAGE, REFUSED, BAD_DATA, STORAGE_FULL, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 65, 75, 130, 143
"""Exit codes. 2: bad configuration or usage; 3: refused for safety; 130: ended by Ctrl-C; 143: by SIGTERM."""

MOST_LINES = 6
"""An error is no longer than this."""

_ABOUT = """\
raydet trains EfficientNet classifiers and EfficientDet detectors on Ray, from a laptop to a cluster.

  raydet fit RECIPE [--section.field value ...]      train; the same command again continues
  raydet evaluate CHECKPOINT [--split val]           score a checkpoint, or a run's best
  raydet predict CHECKPOINT IMAGES... [--out DIR]    find things in pictures
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
        _verb(words[0])(list(words[1:]))
        return DONE
    except KeyboardInterrupt:
        code, what = (TERMINATED, "terminated") if _received else (INTERRUPTED, "interrupted")
        message = f"{what}; the same command continues from the last checkpoint"
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


def _verb(name: str) -> Callable[[list[str]], None]:
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
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
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
    }
    if isinstance(error, FloatingPointError):
        return FAILED
    return next((codes[name] for name in codes if name in names), None)


def _parser(verb: str, what: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"raydet {verb}", description=what, add_help=False, allow_abbrev=False)
    parser.error = _usage_error  # type: ignore[method-assign]
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, as the last line")
    return parser


def _usage_error(message: str) -> Any:
    raise ConfigError(message)


def _print_result(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        from raydet.dll import strict

        print(json.dumps(strict(values)), flush=True)  # NaN is no JSON: null
        return
    width = max(map(len, values), default=0)
    for name, value in values.items():
        print(f"{name:<{width}}  {f'{value:.4f}' if isinstance(value, float) else value}")


def _fit(words: list[str]) -> None:
    parser = _parser("fit", "Train. The same command again continues a run, or returns at once from a finished one.")
    parser.add_argument("recipe", nargs="?", help="where the settings start from; see --help")
    parser.add_argument("--from", dest="base", metavar="CONFIG", help="start from the config.json of a run instead")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    options, rest = _parse(parser, words)
    if options.help:
        return _fit_help(parser, options.first)
    cfg = _config(options.recipe, options.base, rest)
    if options.dry_run:
        from raydet.dryrun import dry_run

        values = dry_run(cfg, quiet=options.json)
        if options.json:
            _print_result(values, True)
        return None
    from raydet.cluster import fit

    result = fit(cfg)
    figures = {"run": str(result.dir), "best": str(result.best), "last": str(result.last)}
    _print_result({**figures, **result.metrics}, options.json)
    return None


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


def _evaluate(words: list[str]) -> None:
    parser = _parser("evaluate", "Score a checkpoint, a run's best checkpoint, or a recipe with foreign model.weights.")
    parser.add_argument("checkpoint")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val")
    options, rest = _parse(parser, words)
    if options.help:
        return print(parser.format_help())
    from raydet.arguments import parse_changes
    from raydet.evaluation import evaluate

    _print_result(evaluate(options.checkpoint, parse_changes(rest), split=options.split), options.json)


def _predict(words: list[str]) -> None:
    parser = _parser("predict", "Find things in pictures; draw them and write COCO results.")
    parser.add_argument("checkpoint")
    parser.add_argument("images", nargs="+", help="image files, or folders of them")
    parser.add_argument("--out", default="predictions", help="folder for the pictures and predictions.json")
    parser.add_argument("--score", type=float, default=0.3, help="least probability of a detection that is shown")
    options, rest = _parse(parser, words)
    if options.help:
        return print(parser.format_help())
    from raydet.arguments import parse_changes
    from raydet.prediction import describe, predict

    answers = predict(
        options.checkpoint, options.images, parse_changes(rest), score_threshold=options.score, out=options.out
    )
    lines = [describe(answer) for answer in answers]
    if options.json:
        _print_result({"out": options.out, "answers": lines}, True)
    else:
        print("\n".join([*lines, f"pictures in {options.out}"]))


def _bench(words: list[str]) -> None:
    from raydet.bench import WHAT, run

    parser = _parser("bench", "Time what raydet does.")
    parser.add_argument("what", choices=WHAT, help="a training step, raydet's operations, all on a GPU, what Ray adds")
    parser.add_argument("--vs", choices=("effdet", "timm"), help="step: time this library's in turn with ours")
    parser.add_argument("--batch", type=int, default=4, help="step: images")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed")
    parser.add_argument("--recipe", default="efficientdet_d0_coco", help="step: whose model and settings")
    parser.add_argument("--compiled", action="store_true", default=None, help="torch.compile's form too; takes minutes")
    parser.add_argument("--keep-memory", action="store_true", help="step: keep freed memory, as fit's workers do")
    parser.add_argument("--profile", action="store_true", help="step: what share each of torch's operations takes")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="ops: where")
    parser.add_argument("--only", nargs="+", metavar="OP", help="ops: which; all by default")
    parser.add_argument("--out", default="docs/benchmarks", help="gpu: folder for the JSON and the Markdown")
    options, rest = _parse(parser, words)
    if options.help:
        return print(parser.format_help())
    from raydet.arguments import parse_changes

    _print_result(dict(run(options, parse_changes(rest))), options.json)


def _parse(parser: argparse.ArgumentParser, words: list[str]) -> tuple[Any, list[str]]:
    """Return (options, the words of settings). A flag that is none of the verb's own begins a setting."""
    flags = {flag for action in parser._actions for flag in action.option_strings}
    own: list[str] = []
    settings: list[str] = []
    target = own
    for word in words:
        if word.startswith("--"):
            target = own if word.partition("=")[0] in flags else settings
        target.append(word)
    if {"-h", "--help"} & set(own):
        # Whatever else is wrong with the words, help is not refused.
        positional = [word for word in own if not word.startswith("-")]
        return argparse.Namespace(help=True, first=positional[0] if positional else None), []
    return parser.parse_args(own), settings


VERBS: dict[str, Callable[[list[str]], None]] = {
    "fit": _fit,
    "evaluate": _evaluate,
    "predict": _predict,
    "bench": _bench,
}

if __name__ == "__main__":
    main()
