"""The images and categories of a COCO file: file names that may be opened, sizes, names of classes."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Container
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt

from raydet.data.formats.coco.json_table import JsonTable, Log, of_kinds, similar
from raydet.data.images.decode import read_size
from raydet.data.storage.files import Files, encodable
from raydet.exceptions import DataError

PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
"""File names, nearly all there are, that need no closer look."""

Finding = tuple[str, str, str | None]
"""Rule, what is wrong, what to do."""


def file_names(table: JsonTable) -> list[str]:
    """Each image's file name; "" where it is refused."""
    given = table.values("file_name")
    table.missing("file_name", [i for i, name in enumerate(given) if name is None])
    found: dict[Finding, list[int]] = {}
    for i, name in enumerate(given):
        if name is not None and not (type(name) is str and PLAIN_NAME.fullmatch(name) and ".." not in name):
            finding = check_name(name)
            if finding is not None:
                found.setdefault(finding, []).append(i)
    names = ["" if name is None else name for name in given]
    for (rule, what, hint), rows in found.items():
        tell = table.warn if "-W" in rule else table.refuse
        tell(rule, what, rows, table.shown(given), hint)
        if "-E" in rule:
            for i in rows:
                names[i] = ""
    return names


def check_name(name: object) -> Finding | None:
    """Say why a file name is no plain path below the image folder, before anything is opened by it."""
    if not isinstance(name, str) or not name or "\0" in name or not encodable(name):
        return "COCO-E29", "file_name must be a file's name", None
    if "://" in name or name.lower().startswith(("http:", "https:", "file:", "data:")):
        return "COCO-E28", "file_name is a URL", "Download the images; raydet fetches none."
    windows = PureWindowsPath(name)
    if name.startswith("/") or windows.drive or windows.root:
        hint = "Write the names relative to the image folder, and set data.train_images / val_images to it."
        return "COCO-E25", "file_name is absolute", hint
    if ".." in windows.parts or ".." in PurePosixPath(name).parts:  # the Windows reading splits at both separators
        hint = "Set data.train_images / val_images to a folder that holds all the images."
        return "COCO-E24", "file_name leaves the image folder", hint
    if name != name.strip():
        return "COCO-W39", "file_name begins or ends with white space", "Is the file called so?"
    return None


def image_sizes(table: JsonTable) -> npt.NDArray[np.int32]:
    """Height and width of each image; zeros where they are missing or refused."""
    sizes = np.zeros((len(table.records), 2), np.int32)
    for column, key in enumerate(("height", "width")):
        values: list[Any] = table.values(key)
        if not of_kinds({int}, values) or (values and not 0 < min(values) <= max(values) < 2**31):
            wrong = [i for i, v in enumerate(values) if v is not None and not _is_size(v)]
            hint = "Write it without quotation marks." if wrong and isinstance(values[wrong[0]], str) else None
            table.refuse("COCO-E29", f"{key} must be a whole number > 0", wrong, table.shown(values), hint)
            values = [int(v) if _is_size(v) else 0 for v in values]
        sizes[:, column] = values
    return sizes


def _is_size(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 2**31 and value % 1 == 0


def fill_sizes(log: Log, names: list[str], sizes: npt.NDArray[np.int32], files: Files, left_out: Container[str]) -> int:
    """Read missing sizes from the images' headers; return how many images are left out for `left_out`.

    Args:
        left_out: names of images that are not opened, and left out without a word.
    """
    missing = np.flatnonzero((sizes == 0).any(axis=1) & ~log.bad).tolist()
    listed = [i for i in missing if names[i] in left_out]
    log.bad[listed] = True
    missing = [i for i in missing if not log.bad[i]]
    log.warn("COCO-W23", "width or height is missing, read from the image", missing)
    for i in missing:
        try:
            sizes[i] = read_size(files.image(names[i]))
        except DataError as error:
            what = "width or height is missing, and the image cannot be read"
            log.refuse(error.rule, what, [i], lambda _, e=error: e.what, error.hint)  # type: ignore[misc]
            log.faults.unusable.append((names[i], error.rule))
    return len(listed)


def check_same_names(log: Log, names: list[str]) -> None:
    """Count images that share a file name, or have names that some file systems hold for one."""
    if len(set(names)) < len(names):
        _same(log, names, "COCO-W35", "file_name is given to another image too", lambda name: name)
    if len(set(map(_folded, names))) < len(set(names)):
        what = "file_name differs from another image's in case or Unicode form only"
        _same(log, names, "COCO-W36", what, _folded)


def _same(log: Log, names: list[str], rule: str, what: str, fold: Callable[[str], str]) -> None:
    """The first image of a name counts as right, and so do further ones of the very same name under W36."""
    first: dict[str, str] = {}
    rows = []
    for i, name in enumerate(names):
        if name:
            held = first.setdefault(fold(name), name)
            if rule == "COCO-W36":
                rows += [i] if held != name else []
            elif held == name and first.get(f"\0{name}") is not None:
                rows.append(i)
            first.setdefault(f"\0{name}", name)
    log.warn(rule, what, rows, lambda i: repr(names[i]))


def _folded(name: str) -> str:
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def class_names(table: JsonTable) -> list[str]:
    """Each category's name; "" where it has none or it is refused."""
    names = table.values("name")
    wrong = [i for i, n in enumerate(names) if n is not None and not (isinstance(n, str) and encodable(n))]
    table.refuse("COCO-E29", "name must be text", wrong, table.shown(names))
    nameless = [i for i, name in enumerate(names) if name is None or name == ""]
    if nameless:
        record = table.records[nameless[0]]
        near = similar("name", record) or ("supercategory" if "supercategory" in record else None)
        hint = f'The first has "{near}"; COCO calls it "name".' if near else None
        table.warn("COCO-W32", "name is missing, the id is taken", nameless, hint=hint)
    return [name if isinstance(name, str) and encodable(name) else "" for name in names]


def leave_out_root(
    log: Log, ids: npt.NDArray[np.int64], names: list[str], parents: list[Any], used: npt.NDArray[np.int64]
) -> None:
    """Leave out the category that Roboflow adds: without a parent, the parent of all others, without any annotation."""
    roots = [i for i, parent in enumerate(parents) if parent in (None, "", "none")]
    if len(roots) != 1 or len(ids) < 2 or ids[roots[0]] in used or not names[roots[0]]:
        return
    if all(parent == names[roots[0]] for i, parent in enumerate(parents) if i != roots[0]):
        what = "the category is no class but the supercategory of all others, and no annotation is of it: left out"
        log.refuse("COCO-W53", what, roots, _of(names))


def check_classes(log: Log, ids: npt.NDArray[np.int64], names: list[str]) -> None:
    """Say which categories share a name, and that ids with gaps are mapped."""
    twice = {name for name, count in Counter(names).items() if count > 1 and name}
    hint = "They stay apart; merge them if they mean the same."
    log.warn("COCO-W10", "name is used twice", [i for i, n in enumerate(names) if n in twice], _of(names), hint)
    alike = Counter(_loose(name) for name in set(names) if name)
    near = [i for i, name in enumerate(names) if name and alike[_loose(name)] > 1]
    log.warn("COCO-W50", "name differs from another in case or spaces only", near, _of(names), hint)
    if len(ids) and sorted(ids.tolist()) != list(range(1, len(ids) + 1)):
        what = f"{len(ids)} category ids from {ids.min()} to {ids.max()}: mapped to classes"
        log.faults.add("COCO-W27", what, file=log.file)


def _of(names: list[str]) -> Callable[[int], str]:
    return lambda i: repr(names[i])


def _loose(name: str) -> str:
    return _folded("".join(name.split()).replace("_", "").replace("-", ""))
