"""Which images are meant: by files, folders, patterns and lists, each once; what is refused."""

from pathlib import Path

import pytest

from raydet.exceptions import ConfigError
from raydet.inference.inputs import image_paths


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Names are enough: nothing is opened."""
    for name in (
        *("b/2.jpg", "b/1.PNG", "b/notes.txt", "b/._1.png", "b/deep/3.gif", "b/.ipynb_checkpoints/1.jpg"),
        *("c/deep/4.webp", "d [1]/5.jpg", "odd.bin", "out/1.png", "b/out/9.png"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_given_becomes_images(tree: Path, subtests: pytest.Subtests) -> None:
    lines = "\ufeffb/2.jpg\r\n\r\n  b/gone.jpg\r\n" + str(tree / "odd.bin")
    (tree / "list.txt").write_text(lines, encoding="utf-8")
    (tree / "b" / "beside.txt").write_text("2.jpg\nb/1.PNG\n./deep/3.gif")
    for inputs, recursive, expected in (
        (["odd.bin"], False, ["odd.bin"]),
        (["b"], False, ["b/1.PNG", "b/2.jpg"]),
        (["b"], True, ["b/1.PNG", "b/2.jpg", "b/deep/3.gif"]),
        (["b/2.jpg", "b", "./b/2.jpg", "c/../b/2.jpg"], False, ["b/2.jpg", "b/1.PNG"]),
        (["b/*"], False, ["b/1.PNG", "b/2.jpg"]),
        (["[bc]"], True, ["b/1.PNG", "b/2.jpg", "b/deep/3.gif", "c/deep/4.webp"]),
        (["**/*.webp"], False, ["c/deep/4.webp"]),
        (["d [1]"], False, ["d [1]/5.jpg"]),
        (["d [1]/5.jpg"], False, ["d [1]/5.jpg"]),
        (["list.txt"], False, ["b/2.jpg", "b/gone.jpg", str(tree / "odd.bin")]),
        (["b/beside.txt"], False, ["b/2.jpg", "b/1.PNG", "b/deep/3.gif"]),
    ):
        with subtests.test(inputs=inputs, recursive=recursive):
            found = image_paths(inputs, recursive=recursive, out=tree / "b" / "out")
            assert [str(path) for path in found] == [str(Path(name)) for name in expected]
    assert [p.name for p in image_paths([tree / "out"], recursive=True, out=tree / "out")] == ["1.png"]  # refused later


def test_what_cannot_be_meant_is_refused_in_words(tree: Path, subtests: pytest.Subtests) -> None:
    (tree / "urls.txt").write_text("b/2.jpg\nhttp://host/1.jpg\n")
    (tree / "gone.txt").write_text("x.jpg\n")
    (tree / "empty.txt").touch()
    for given, said in (
        ("none.jpg", "no such image: none.jpg"),
        ("c", "sub-folders: add --recursive"),
        ("b/*.xyz", "matches b/"),
        ("http://host/a.jpg", "is a URL"),
        (Path("https://host/a.jpg"), "is a URL"),
        ("s3://bucket/a.jpg", "copy it here first"),
        ("urls.txt", r"urls.txt:2: http://host/1.jpg is a URL"),
        ("gone.txt", "of 1 none is there, e.g. x.jpg"),
        ("empty.txt", "of 0 none is there"),
    ):
        with subtests.test(given=given), pytest.raises(ConfigError, match=said):
            image_paths([given])
