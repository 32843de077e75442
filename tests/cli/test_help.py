"""Help: what it shows, that it is quick, that no word is broken, that its examples are right; the frozen flags."""

import re
import resource
import shlex
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from raydet.cli import HelpShown
from raydet.cli import main as cli
from raydet.cli.fit import config_of
from raydet.cli.parser import VerbParser
from raydet.config import as_flat
from raydet.config.arguments import SETTINGS
from raydet.recipes import recipe
from tests.commands import ROOT, environment

FLAGS = {
    "fit": "--dry-run --from --model",
    "tune": "--algorithm --budget --concurrent --confirm --dry-run --from --model --num-samples --objective --patience "
    "--scheduler --set --space --warm-start",
    "evaluate": "--out --split",
    "predict": "--annotations --class-agnostic-nms --max-detections --out --recursive --score",
    "export": "--images --nms --target",
    "check": "--out --recipe --split",
    "checkpoint": "",
    "convert": "--copy --to",
    "bench": "--batch --compiled --device --images-per-s --keep-memory --only --out --profile --qat --recipe --rounds "
    "--vs",
}
HEAVY = {"torch", "ray", "numpy", "rich", "PIL", "cupy"}


def help_of(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.run([*words, "--help"]) == 0
    return capsys.readouterr().out


def entries(text: str) -> dict[str, str]:
    """Return flag -> its line and those below it, as one line."""
    parts = re.split(r"^  (?:-h, )?(?=--)", text.partition("\nexamples:")[0], flags=re.MULTILINE)[1:]
    return {part.split()[0]: " ".join(part.split()) for part in parts}


@pytest.mark.parametrize("verb", cli.VERBS)
def test_a_verbs_help_has_the_released_flags_with_defaults_its_settings_and_examples(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flag may be added here on purpose; none may go."""
    text = help_of(verb, capsys=capsys)
    shown = entries(text)
    assert set(shown) == {*FLAGS[verb].split(), "--help", "--json"}
    assert [flag for flag, line in shown.items() if "(default: " not in line] == ["--help"]
    assert "Settings: --section.field value" in text and f"\nexamples:\n  raydet {verb} " in text


def test_a_recipes_help_shows_every_setting_with_type_value_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of("fit", "demo_classification", capsys=capsys)
    shown = entries(text)
    assert [flag[2:] for flag in shown if flag[2:] in SETTINGS] == list(SETTINGS)
    assert re.fullmatch(r"--optim.lr FLOAT Peak learning rate.* \(default: 0\.003\)", shown["--optim.lr"])
    assert shown["--data.format"].startswith(
        "--data.format {coco,folder,yolo,parquet,voc,labelme,cvat,labelstudio,createml,csv} coco: annotation JSON"
    )
    assert shown["--augment.scale"].startswith("--augment.scale FLOAT FLOAT Detection: the image is scaled")
    assert shown["--scaling.num_workers"].startswith("--scaling.num_workers INT|INT INT ")
    assert "in pixels" in shown["--model.image_size"] and "(default: none)" in shown["--model.weights"]
    assert "\noptim: Optimizer, learning rate and weight decay.\n" in text
    assert "Off here: setting one of its fields switches it on." in " ".join(text.split())
    assert '(default: "")' in shown["--model.freeze"] and "\nexamples:\n  raydet fit " in text


@pytest.mark.parametrize("words", [[verb] for verb in cli.VERBS] + [["fit", "efficientdet_d0_coco"]])
def test_help_fits_the_terminal_and_breaks_no_word(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(*words, capsys=capsys)
    assert max(map(len, text.splitlines())) <= 80
    monkeypatch.setenv("COLUMNS", "61")
    assert help_of(*words, capsys=capsys).split() == text.split()


def test_the_first_help_has_every_verb_and_exit_code_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys=capsys)
    assert max(map(len, text.splitlines())) <= 80
    assert set(re.findall(r"^  raydet (\w+)", text, re.MULTILINE)) == set(cli.VERBS)
    codes = re.findall(r"\b\d+\b", text.partition("Exit codes:")[2])
    assert codes == ["0", "1", "2", "3", "65", "75", "130", "143"]


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_examples_of_help_are_read_without_a_fault(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = help_of(verb, capsys=capsys).partition("\nexamples:\n")[2].splitlines()
    seen: list[tuple[Namespace, dict[str, Any]]] = []

    def only_read(parser: VerbParser, words: Sequence[str]) -> None:
        seen.append(parser.read(words))
        raise HelpShown

    monkeypatch.setattr(VerbParser, "parse", only_read)
    assert [cli.run(shlex.split(line)[1:]) for line in lines] == [0] * len(seen) and lines
    for options, changes in seen:
        if verb in ("fit", "tune") and options.recipe != "path/to/data" and options.base is None:
            config_of(options.recipe, options.base, changes)


def test_help_and_mistakes_load_nothing_heavy() -> None:
    lines = [["--help"], ["--version"], ["fti"], ["fit", "no_such_recipe"], ["fit", "demo_detection", "--help"]]
    lines += [[verb, "--help"] for verb in cli.VERBS] + [["evaluate", "x", "--epochs", "3"]]
    code = f"import sys; from raydet.cli.main import run\nfor words in {lines}: run(words)\n"
    code += f"print(*{HEAVY} & set(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment(), check=True
    )
    assert done.stderr.splitlines()[-1] == ""


def test_a_recipes_help_takes_less_than_half_a_second_of_a_cpu() -> None:
    """0.20 CPU-s on 2 EPYC cores, 2026-11-30; a third of it is Python's own start."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "raydet", "fit", "demo_classification", "--help"]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_help_has_its_texts_out_of_a_zip_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "raydet.zip", "w") as file:
        for path in (ROOT / "raydet").rglob("*.py"):
            file.write(path, path.relative_to(ROOT))
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'raydet.zip')!r}); from raydet.cli.main import run; "
    code += "run(['fit', 'demo_classification', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "Peak learning rate" in done.stdout


def test_help_shows_a_value_as_it_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    shown = entries(help_of("fit", "efficientnet_b0_qat", capsys=capsys))
    flat = as_flat(recipe("efficientnet_b0_qat"))
    for key in ("optim.lr", "augment.crop_area", "schedule.per_step", "quantization.percentile", "run.name"):
        value = flat[key]
        words = value if isinstance(value, tuple) else [value]
        assert f"(default: {' '.join(str(word) for word in words)})".lower() in shown[f"--{key}"].lower()
