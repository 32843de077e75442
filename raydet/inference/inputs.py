"""Which images `raydet predict` is asked for: files, quoted patterns, folders, and lists of files."""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from raydet.data.images.decode import EXTENSIONS
from raydet.exceptions import ConfigError, one_line

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/{1,2}[^/]")  # two letters at least: C:/ is a drive; Path() takes a / away
_KINDS = " ".join(EXTENSIONS)


def image_paths(inputs: Iterable[str | Path], *, recursive: bool = False, out: Path | None = None) -> list[Path]:
    """Return the images that are meant, in the order given, each once; a folder's by name.

    Args:
        inputs: files; folders; patterns (`*`, `?`, `[...]`, `**`); .txt files with a path on each line, relative to the
            file's folder or else to the working directory. What is hidden (a name that begins with a dot) in a folder
            is left out. A listed file that is not there is returned, to be reported when it is opened.
        recursive: take sub-folders too.
        out: a folder that is not looked into.

    Raises:
        ConfigError: nothing of that name, a URL, or no image in it; says what was looked for.
    """
    found: dict[str, Path] = {}
    skipped = None if out is None or not out.is_dir() else _identity(out)
    for given in inputs:
        for path in _meant(str(given), recursive, skipped):
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def _meant(given: str, recursive: bool, skipped: tuple[int, int] | None) -> Sequence[Path]:
    _refuse_url(given)
    path = Path(given).expanduser()
    if path.is_dir():
        return _in_folder(path, recursive, skipped)
    if path.exists():
        return _listed(path) if path.suffix.lower() == ".txt" else [path]
    if glob.has_magic(given):
        return _matching(str(path), recursive, skipped)
    raise ConfigError(f"no such image: {given}")


def _refuse_url(text: str, where: str = "") -> None:
    if _URL.match(text):
        shown = one_line(re.sub(r"//[^/@]*@", "//", text).partition("?")[0])  # without passwords and signatures
        remedy = "download it first (curl -LO URL)" if text.lower().startswith("http") else "copy it here first"
        raise ConfigError(f"{where}{shown} is a URL, and predict reads files of this machine; {remedy}")


def _in_folder(folder: Path, recursive: bool, skipped: tuple[int, int] | None) -> list[Path]:
    found = list(_walk(folder, recursive, skipped))
    if not found:
        deeper = not recursive and next(_walk(folder, True, skipped), None) is not None
        hint = "; there are some in its sub-folders: add --recursive" if deeper else ""
        raise ConfigError(f"no images in {folder}; looked for {_KINDS}{hint}")
    return found


def _walk(folder: Path, recursive: bool, skipped: tuple[int, int] | None) -> Iterator[Path]:
    for at, folders, files in os.walk(folder):
        if skipped is not None and _identity(Path(at)) == skipped and at != str(folder):
            folders.clear()
            continue
        yield from (Path(at, name) for name in sorted(files) if _is_image(name))
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _matching(pattern: str, recursive: bool, skipped: tuple[int, int] | None) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, sorted(glob.glob(pattern, recursive=True))):
        if path.is_dir():
            found += _walk(path, recursive, skipped) if recursive else []
        elif _is_image(path.name):
            found.append(path)
    if not found:
        raise ConfigError(f"no such image: nothing with the ending of an image ({_KINDS}) matches {pattern}")
    return found


def _listed(file: Path) -> list[Path]:
    text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    found: list[Path] = []
    for number, line in enumerate(text.split("\n"), 1):
        entry = line.strip()
        if not entry:
            continue
        _refuse_url(entry, f"{file}:{number}: ")
        beside, here = file.parent / entry, Path(entry).expanduser()
        found.append(here if here.exists() and not beside.exists() else beside)
    if not any(os.path.lexists(path) for path in found):
        first = f", e.g. {one_line(str(found[0]))}" if found else ""
        raise ConfigError(f"{file} is to hold a path on each line: of {len(found)} none is there{first}")
    return found


def _identity(folder: Path) -> tuple[int, int]:
    """What tells a folder however it is spelt or linked."""
    info = os.stat(folder)
    return info.st_dev, info.st_ino
