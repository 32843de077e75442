"""`raydet fit`: its flags, its help, and the configuration that a command line means."""

import argparse
import io
from contextlib import redirect_stdout, suppress
from pathlib import Path

from raydet.cli.parser import new_parser, parse, print_result
from raydet.config import Config, load, override
from raydet.exceptions import ConfigError


def run(words: list[str]) -> None:
    """Train."""
    parser = new_parser("fit", "Train. The same command again continues a run, or returns at once from a finished one.")
    parser.add_argument("recipe", nargs="?", help="where the settings start from; see --help")
    parser.add_argument("--from", dest="base", metavar="CONFIG", help="start from the config.json of a run instead")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    options, rest = parse(parser, words)
    if options.help:
        return _fit_help(parser, options.first)
    cfg = config_of(options.recipe, options.base, rest)
    if options.dry_run:
        from raydet.driver.dry_run import dry_run

        values = dry_run(cfg, quiet=options.json)
        if options.json:
            print_result(values, True)
        return None
    from raydet.driver.fit import fit

    result = fit(cfg)
    figures = {"run": str(result.dir), "best": str(result.best), "last": str(result.last)}
    print_result({**figures, **result.metrics}, options.json)
    return None


def config_of(recipe: str | None, base: str | None, rest: list[str]) -> Config:
    """Return the configuration that a recipe or a config.json gives with the settings in `rest`."""
    from raydet import recipes
    from raydet.config.arguments import parse_changes

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
    plain = (tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands)  # spelt as raydet.config.arguments reads them
    text = io.StringIO()
    with suppress(SystemExit), redirect_stdout(text):
        tyro.cli(Config, default=recipes.recipe(recipe), args=["--help"], use_underscores=True, config=plain)
    lines = text.getvalue().splitlines()
    first = next((i for i, line in enumerate(lines) if " model options " in line), 0)  # before that it speaks of itself
    print("\n".join(lines[first:]))
