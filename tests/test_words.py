"""What a user reads has the field's words: messages, help, the README, headings of docs."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydet.cli import main as cli

ROOT = Path(__file__).parents[1]
WORDS = {
    r"pictures?": "image",
    r"anew": "again",
    r"told": "given",
    r"moving averages?": "EMA",
    r"doubles": "duplicates",
    r"likeness": "near-duplicates",
    r"goes on|go on": "continues",
    r"taken up": "resumed",
    r"so many": "N",
    r"by itself": "on its own",
    r"learnt": "trained",
}
"""Not these words, but those."""
EXCEPTIONS = {
    ("raydet/data/formats/parquet/rows.py", "picture"),  # a name of a column in users' files
}


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Give line and text of each string of a module that is not a doc string."""
    tree = ast.parse(path.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


def wrong(text: str, where: str) -> list[str]:
    found = [(match[0], better) for word, better in WORDS.items() for match in re.finditer(rf"(?i)\b({word})\b", text)]
    return [
        f"{where}: {word!r}, write {better}" for word, better in found if (where.split(":")[0], word) not in EXCEPTIONS
    ]


def test_messages_use_the_fields_words() -> None:
    files = [path for folder in ("raydet", "ops", "search_spaces") for path in sorted((ROOT / folder).rglob("*.py"))]
    names = {path: str(path.relative_to(ROOT)) for path in files}
    texts = [(f"{names[path]}:{line}", text) for path in files for line, text in strings(path)]
    assert len(texts) > 1000 and not [fault for where, text in texts for fault in wrong(text, where)]


def test_help_uses_the_fields_words(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], *([verb] for verb in cli.VERBS), ["fit", "efficientnet_b0_qat"]):
        assert cli.run([*words, "--help"]) == 0
        assert not wrong(" ".join(capsys.readouterr().out.split()), f"raydet {' '.join(words)} --help")


def test_the_readme_and_headings_use_the_fields_words() -> None:
    assert not wrong(" ".join((ROOT / "README.md").read_text().split()), "README.md")
    for path in sorted((ROOT / "docs").rglob("*.md")):
        headings = [line for line in path.read_text().splitlines() if line.startswith("#")]
        assert headings and not wrong("\n".join(headings), path.name)
