"""`raydet fit`: its flags, its help, and the configuration that a command line means."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydet.cli import help_text
from raydet.cli.parser import VerbParser, print_result
from raydet.config import Config, load, override
from raydet.exceptions import ConfigError

if TYPE_CHECKING:
    from raydet.driver.own_data import OwnData


def run(words: list[str]) -> None:
    """Train."""
    parser = VerbParser(
        "fit",
        "Train on your data, or by a recipe. The same command again continues a run, or returns at once from a "
        "finished one.",
        examples=(
            "raydet fit path/to/data",
            "raydet fit path/to/data --model efficientdet_lite0 --schedule.epochs 20",
            "raydet fit demo_classification --schedule.epochs 3 --run.name quick",
            "raydet fit demo_detection --augment.scale 0.8 1.25 --dry-run",
            "raydet fit --from runs/shop --quantization.bits 8",
        ),
        more=_help,
    )
    add_start(parser)
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    options, changes = parser.parse(words)
    cfg = config_of(options.recipe, options.base, changes, options.model)
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


def add_start(parser: VerbParser) -> None:
    """Add what `config_of` wants of a command line: a recipe, or --from."""
    parser.add_argument(
        "recipe",
        nargs="?",
        help="a data set (folder, annotation file, data.yaml), or a recipe, see `raydet fit --help`",
    )
    parser.add_argument(
        "--model", help="which model for your data (default: efficientdet_d0 for boxes, efficientnet_b0 for classes)"
    )
    start = "a run or checkpoint whose weights and settings to start from; or a config.json or best.json: its settings"
    parser.add_argument("--from", dest="base", metavar="RUN", help=start)


def config_of(
    recipe: str | None,
    base: str | None,
    changes: Mapping[str, Any],
    model: str | None = None,
    *,
    search: bool = False,
) -> Config:
    """Return the configuration that a data set, a recipe, a run or a config.json gives, with `changes`.

    Args:
        base: a run or checkpoint to start from, on other data if `recipe` is a data set; or a config.json.
        search: it is for trials, which run on Ray's workers.

    Raises:
        ConfigError: none of them is named, they do not go together, there is none of that name, or the changes do not
            fit.
    """
    from raydet import recipes

    if recipe is None and base is None:
        raise ConfigError("name a data set or a recipe, or --from a run; see `raydet fit --help`")
    if model is not None:
        changes = {"model.name": model, **changes}
    fitted = _fitted(recipe, base, {"scaling.num_workers": 1, **changes} if search else changes)
    if fitted is not None:
        print("\n".join(fitted.lines()), file=sys.stderr, flush=True)
        return fitted.cfg
    return override(recipes.recipe(recipe) if recipe is not None else load(Path(str(base))), changes)


def _fitted(recipe: str | None, base: str | None, changes: Mapping[str, Any]) -> "OwnData | None":
    """Return what fits a data set or starts from a run; None where a recipe or a config.json says it all."""
    from raydet.recipes.own_data import OWN_DATA

    if base is not None:
        path = Path(base).expanduser()
        if not path.exists():
            raise ConfigError(f"--from {base}: no such run or file")
        if recipe is not None and not path.is_dir():
            raise ConfigError(f"--from {base} is no run's folder: its settings or those of {recipe}; leave one out")
        if recipe is not None and not _is_place(recipe):
            raise ConfigError(f"--from {base}: its settings or those of {recipe}; leave one out, or name a data set")
        if not path.is_dir():
            return None
        from raydet.driver.from_run import from_run

        return from_run(base, recipe, changes)
    assert recipe is not None
    own = recipe in OWN_DATA
    if own or _is_place(recipe):
        from raydet.driver.own_data import own_data

        return own_data(None, {"model.name": recipe, **changes}) if own else own_data(recipe, changes)
    if "/" in recipe or "." in recipe:
        raise ConfigError(f"no such file or folder: {recipe}")
    return None


def _is_place(word: str) -> bool:
    """Whether a word names a data set rather than a recipe: a file or folder that is there, or an address."""
    from raydet import recipes

    return word not in recipes.RECIPES and ("://" in word or Path(word).expanduser().exists())


def _help(recipe: str | None) -> list[str]:
    """Return the recipes, or every setting of the one named."""
    from raydet import recipes

    if recipe is None:
        return help_text.commands("recipes", list(recipes.RECIPES))
    how = f'settings of {recipe}. A list is written with spaces or commas, an empty one as "":'
    return ["", *help_text.wrapped(how), *help_text.settings(recipes.recipe(recipe))]
