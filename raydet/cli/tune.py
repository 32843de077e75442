"""`raydet tune`: its flags and its help."""

from typing import Any

from raydet.cli import help_text
from raydet.cli.fit import add_start, config_of
from raydet.cli.parser import VerbParser, print_result
from raydet.config import Config, nearest
from raydet.exceptions import ConfigError

_NOT_OF_A_SEARCH = ("help", "json", "recipe", "model", "base", "space")
"""Options that a range test takes too."""


def run(words: list[str]) -> None:
    """Search for better settings."""
    parser = VerbParser(
        "tune",
        "Search for better settings; trial 1 is the recipe. The same command again continues.",
        examples=(
            "raydet tune demo_classification --space lr_wd --num-samples 12 --confirm 2",
            'raydet tune demo_detection --set "optim.lr=loguniform(1e-3, 1e-1)"',
            "raydet tune demo_classification --space lr-range-test",
        ),
        more=_spaces,
    )
    add_start(parser)
    parser.add_argument("--space", help="what is searched: a name, see below, or a Python file with space(cfg)")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=FUNCTION(...)", help="a range")
    parser.add_argument("--num-samples", type=int, default=20, help="trials, the default included; of pbt at a time")
    parser.add_argument("--algorithm", default="tpe", help="tpe, random or pbt (population based training)")
    parser.add_argument("--scheduler", default="asha", help="asha, hyperband: stop trials early that do worse; none")
    parser.add_argument("--objective", dest="objectives", action="append", default=[], help="latency_ms or size_mb")
    parser.add_argument(
        "--concurrent", type=int, help="trials at a time (default: as many as have room); 1: one seed, the same points"
    )
    parser.add_argument("--budget", help="wall time for the whole search: 45m, 2h, 1d")
    parser.add_argument("--confirm", type=int, default=0, help="repeat default and best with N other seeds")
    parser.add_argument("--patience", type=int, help="end after N trials that do not beat the default")
    parser.add_argument("--warm-start", metavar="FOLDER", help="try the best points of an earlier search first")
    parser.add_argument("--dry-run", action="store_true", help="show what would be tried, and do nothing")
    options, changes = parser.parse(words)
    cfg = config_of(options.recipe, options.base, changes, options.model, search=True)
    if nearest((options.space or "").replace("-", "_"), ["lr_range_test"], 1):
        return _range_test(options, cfg, parser)
    from raydet.cli.tune_result import as_values, lines
    from raydet.tuning.tune import setting_of, tune

    given = {k: v for k, v in vars(options).items() if k not in (*_NOT_OF_A_SEARCH, "dry_run")}
    if options.dry_run:
        from raydet.tuning.dry_run import dry_run

        values = dry_run(setting_of(cfg, options.space, **given), quiet=options.json)
        return print_result(values, True) if options.json else None
    result = tune(cfg, options.space, **given)
    if options.json:
        return print_result(as_values(result), True)
    return print("\n".join(lines(result)))


def _range_test(options: Any, cfg: Config, parser: VerbParser) -> None:
    if options.space.replace("-", "_") != "lr_range_test":
        raise ConfigError(f"no search space {options.space!r}; did you mean lr-range-test?")
    for flag, action in parser.flags.items():
        name = action.dest
        if name not in _NOT_OF_A_SEARCH and getattr(options, name) != action.default:
            raise ConfigError(f"{flag}: lr-range-test is one short run and no search; leave it out")
    from raydet.tuning.lr_range.run import lr_range_test

    found = lr_range_test(cfg)  # says itself what it found
    if options.json:
        places = {"table": str(found.table), "figure": str(found.figure)}
        print_result({"optim.lr": found.suggestion, "why": found.why, **places}, True)


def _spaces(recipe: str | None) -> list[str]:
    from raydet.search_spaces import SPACES

    lines = ["", "spaces:"]
    for name, what in {**SPACES, "lr-range-test": "no search: one short run that suggests a learning rate"}.items():
        lines += help_text.entry(name, what)
    return lines
