"""The verb `raydet check`: a data set looked through before a GPU is taken; what is wrong, unusual, twice or missing.

Annotations are read once, every image is opened, hashed and decoded, by all cores of this machine or as Ray tasks
where a cluster is named. What `fit` does of this on every start is `raydet.data.image_checks.quick_look`.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import TextIO

import numpy as np

from raydet.audit.parallel_map import on_ray
from raydet.audit.report import write
from raydet.audit.result import Audit, AuditedSplit
from raydet.config import Config, from_dict, override, to_dict
from raydet.data import DetectionIndex
from raydet.data.image_checks import Looked
from raydet.data.images.decode import EXTENSIONS
from raydet.data.left_out import DuplicateGroup, Look, duplicate_groups, open_split, read_quarantine, save_prints
from raydet.data.loading.parallel import here
from raydet.data.open_data import OpenedData, open_data
from raydet.data.storage.address import is_remote, parse
from raydet.data.storage.files import Folder
from raydet.data.validation.anchor_coverage import coverage
from raydet.data.validation.faults import Example, Faults, collecting
from raydet.data.validation.rules import RULES
from raydet.driver.resources import cores, wanted_address
from raydet.exceptions import ConfigError, DataError
from raydet.io.files import make_folder
from raydet.terminal.progress_bar import Counter
from raydet.training.state import resolve_model

_PART = 64
"""Images of one piece of work: some 0.1 s."""


def check(
    cfg: Config, splits: Sequence[str] | None = None, *, out: Path | str | None = None, stream: TextIO | None = None
) -> Audit:
    """Look through the data set of a configuration, and return all that was found.

    Args:
        splits: which of train, val and test. None: all that the configuration names.
        out: folder for report.json, quarantine.txt and plots; None: nothing is written.
        stream: where progress is shown. None: standard error.

    Raises:
        ConfigError: a setting or a folder that cannot be used. What is wrong with the data is returned, not raised.
    """
    if is_remote(cfg.data.root):
        parse(cfg.data.root)  # refuses credentials in it before it is shown or written
    if out is not None:
        _writable(Path(out))
    cfg = resolve_model(cfg)
    names = list(splits or ("train", "val", "test"))
    same_place = {getattr(cfg.data, s): s for s in reversed(names) if getattr(cfg.data, s) is not None}
    names = [n for n in names if same_place.get(getattr(cfg.data, n), n) == n]
    if not splits and cfg.data.test is None and cfg.data.format in ("coco", "folder"):
        names.remove("test")  # nothing says where it would be
    data = open_data(cfg, names)  # type: ignore[arg-type]
    audit = Audit(cfg, data.faults, [AuditedSplit(name, index) for name, index in data.splits.items()])
    audit.unusable = _unusable(cfg, data)
    tolerant = override(cfg, {"data.on_bad": "skip", "data.max_bad": 1.0})
    with ExitStack() as stack:
        ray = wanted_address(cfg) is not None
        if ray:
            from raydet.driver.ray_session import ray_session

            stack.enter_context(ray_session(override(cfg, {"scaling.num_workers": 1, "scaling.use_gpu": False})))
        for split in audit.splits:
            split.seen = sorted(_seen(tolerant, split, ray, stream or sys.stderr), key=lambda one: one.row)
            save_prints(tolerant, split.index, split.seen)
            _note_images(audit, split, data.found[split.name])  # type: ignore[index]
    audit.verdict, audit.fit_verdict = data.verdict(), data.verdict(("train", "val"))
    audit.faults = data.faults
    _note_not_listed(audit)
    _compare(audit)
    _anchors(audit)
    if out is not None:
        write(audit, Path(out))
    return audit


def _unusable(cfg: Config, data: OpenedData) -> list[tuple[str, str, str]]:
    """The images of data.quarantine, and those that cannot be opened for their size."""
    listed = read_quarantine(cfg.data.quarantine) if cfg.data.quarantine and data.splits else {}
    found: list[tuple[str, str, str]] = []
    for split, faults in data.found.items():
        found += [(split, name, "DIR-W11") for name in sorted(listed.get(split, ()))]
        found += [(split, name, rule) for name, rule in faults.unusable]
    return found


def _writable(out: Path) -> None:
    """Make the folder of the report before the hours that the report may take."""
    try:
        make_folder(out / "plots")
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written to: {error.strerror}; choose another folder") from None


def _seen(cfg: Config, split: AuditedSplit, ray: bool, stream: TextIO) -> Iterator[Looked]:
    """Every image of the split, with its progress shown."""
    parts = np.array_split(np.arange(len(split.index)), -(-len(split.index) // _PART))
    if ray:
        text = json.dumps(to_dict(cfg))  # hashable, so that a process opens the split once
        wanted = [(text, split.name, part.tolist()) for part in parts]
        answers = on_ray(_look_on_node, wanted)
    else:
        work = Look(cfg, split.index)
        few = len(split.index) <= 2 * _PART
        answers = here(work, [part.tolist() for part in parts], 0 if few else cores(), split.index.files.forkable)
    with Counter(f"check     {split.name} images", len(split.index), stream) as tick:
        for answer in answers:
            tick(len(answer))
            yield from answer


def _look_on_node(part: tuple[str, str, list[int]]) -> list[Looked]:
    config, name, rows = part
    return _node_look(config, name)(rows)


@lru_cache(maxsize=4)
def _node_look(config: str, name: str) -> Look:
    cfg = from_dict(json.loads(config))
    with collecting():
        return Look(cfg, open_split(cfg, name))  # type: ignore[arg-type]


def _note_images(audit: Audit, split: AuditedSplit, faults: Faults) -> None:
    """Count what is wrong with the split's images."""
    index, place = split.index, split.index.files.place
    for one in split.seen:
        for rule, what, hint in one.notes:
            record = f"image {index.ids[one.row]}, {one.name}" if isinstance(index, DetectionIndex) else one.name
            example = Example(record, what, one.name)
            faults.add(rule, RULES[rule], file=place, kind="images", examples=[example], hint=hint)
    # YOLO's index has opened them all for their size, and has counted them.
    total = 0 if index.faults.counted("images", place) else len(split.seen)
    faults.looked_at("images", total, sum(one.broken for one in split.seen), place)


def _note_not_listed(audit: Audit) -> None:
    """Count the images in COCO's folders that no split's annotations name."""
    data = audit.cfg.data
    if data.format != "coco":
        return
    folders: dict[Path, list[DetectionIndex]] = {}
    for index in (split.index for split in audit.splits):
        if isinstance(index, DetectionIndex) and isinstance(index.files, Folder):
            folders.setdefault(index.files.root, []).append(index)
    listed = {os.path.join(root, name) for root, held in folders.items() for i in held for name in i.names.tolist()}
    listed |= _left_out(audit)
    opened = {getattr(data, split.name) for split in audit.splits}
    complete = {data.train, data.val, data.test} - {None} <= opened
    for root, held in folders.items():
        own = any(root.name == Path(index.file).stem.removeprefix("instances_") for index in held)
        if not (complete or own):
            continue  # they may belong to a split that was not looked at
        found = (str(p) for p in root.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
        extra = sorted(os.path.relpath(path, root) for path in found if path not in listed)
        if extra:
            shown = [Example(name) for name in extra[:5]]
            audit.faults.add("DIR-W07", RULES["DIR-W07"], file=root, kind="files", count=len(extra), examples=shown)


def _left_out(audit: Audit) -> set[str]:
    """The paths of images that the annotations name and the configuration leaves out."""
    cfg, found = audit.cfg, set[str]()
    if cfg.data.quarantine is None and cfg.data.on_leak == "warn":
        return found
    whole = override(cfg, {"data.quarantine": None, "data.on_leak": "warn"})
    for split in audit.splits:
        with suppress(DataError), collecting():
            index = open_split(whole, split.name)  # type: ignore[arg-type]
            found |= {os.path.join(index.files.place, name) for name in index.names.tolist()}
    return found


def _compare(audit: Audit) -> None:
    """Find images that are there twice, within a split and across splits, and classes that differ."""
    audit.duplicates = duplicate_groups({split.name: split.seen for split in audit.splits})
    for kind, within, across in (("exact", "IMG-W14", "IMG-W15"), ("near", "IMG-W16", "IMG-W17")):
        groups = [group for group in audit.duplicates if group.kind == kind]
        _note_groups(audit, within, [group for group in groups if not group.across])
        _note_groups(audit, across, [group for group in groups if group.across])
    audit.leaks = sum(group.across for group in audit.duplicates)


_TWICE_HINT = {
    "IMG-W15": "The score is too good: remove them from one split, or train with data.on_leak=drop.",
    "IMG-W17": "Frames of one scene in two splits make the score too good: look at them, or train with "
    "data.on_leak=drop.",
}


def _note_groups(audit: Audit, rule: str, groups: list[DuplicateGroup]) -> None:
    if not groups:
        return
    shown = [Example(" = ".join(f"{split}/{one.name}" for split, one in group.members[:4])) for group in groups[:5]]
    details = {"kind": "groups of images", "count": len(groups), "hint": _TWICE_HINT.get(rule)}
    audit.faults.add(rule, RULES[rule], examples=shown, **details)  # type: ignore[arg-type]


def _anchors(audit: Audit) -> None:
    content = next((split.content for split in audit.splits if split.name == "train"), None)
    if audit.cfg.task == "detection" and content is not None and content.boxes_N4.size:
        audit.best_iou, _ = coverage(audit.cfg, content.boxes_N4, content.sizes_N2)
