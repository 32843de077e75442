"""What kind of data set lies at a path, as configuration changes: what a user who names only a place means."""

from pathlib import Path
from typing import Any

from raydet.config import Config, ConfigError, override
from raydet.data.folder import EXTENSIONS

_TRAIN, _VAL = ("train", "training"), ("val", "valid", "validation", "test")


def guess(path: Path) -> Config:
    """Return a configuration for the data set at `path`: an annotation file, or a folder that holds one of any format.

    Raises:
        ConfigError: nothing there that is known; says what was looked for.
    """
    if not path.exists():
        raise ConfigError(f"no such file or folder: {path}")
    found = _file(path) if path.is_file() else _folder(path)
    if found is None:
        looked = "COCO annotations (*.json), data.yaml, *.parquet, or a folder of class folders"
        raise ConfigError(f"{path} holds no data set that raydet knows; looked for {looked}")
    return override(Config(), found)


def _file(path: Path) -> dict[str, Any] | None:
    ending = path.suffix.lower()
    if ending == ".json":
        root = path.parent.parent if path.parent.name == "annotations" else path.parent
        return _coco(root, [path])
    if ending in (".yaml", ".yml"):
        return {"data.format": "yolo", "data.root": str(path)}
    if ending == ".parquet":
        return _parquet(path.parent, [path])
    return None


def _folder(path: Path) -> dict[str, Any] | None:
    if (path / "data.yaml").is_file() or (path / "data.yml").is_file():
        return {"data.format": "yolo", "data.root": str(path)}
    if jsons := sorted((path / "annotations").glob("*.json")):
        return _coco(path, jsons)
    if parquets := sorted(path.glob("*.parquet")):
        return _parquet(path, parquets)
    splits = {name: path / name for name in (*_TRAIN, *_VAL) if (path / name).is_dir()}
    if splits and all(_has_classes(place) for place in splits.values()):
        return _named(path, list(splits.values())) | {"data.format": "folder", "model.name": "efficientnet_b0"}
    if jsons := sorted(path.glob("*.json")):
        return _coco(path, jsons)
    if _has_classes(path):
        whole = {"data.format": "folder", "data.root": str(path), "data.train": ".", "data.val": "."}
        return whole | {"model.name": "efficientnet_b0"}
    return None


def _has_classes(path: Path) -> bool:
    folders = [p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]
    return bool(folders) and any(q.suffix.lower() in EXTENSIONS for p in folders[:20] for q in p.iterdir())


def _coco(root: Path, jsons: list[Path]) -> dict[str, Any]:
    instances = [p for p in jsons if p.stem.startswith("instances_")] or jsons
    return {"data.format": "coco"} | _named(root, instances)


def _parquet(root: Path, files: list[Path]) -> dict[str, Any]:
    import pyarrow.parquet

    names = set(pyarrow.parquet.read_schema(files[0]).names)
    boxes = {"boxes", "bbox", "bboxes", "objects"} & names
    model = {} if boxes else {"model.name": "efficientnet_b0"}
    return {"data.format": "parquet"} | model | _named(root, files)


def _named(root: Path, places: list[Path]) -> dict[str, Any]:
    """The splits by their names; where only one can be told it is both."""
    below = {p: str(p.relative_to(root)) for p in places}

    def of(words: tuple[str, ...]) -> str | None:
        return next((below[p] for p in places if any(word in p.stem.lower() for word in words)), None)

    train, val = of(_TRAIN), of(_VAL)
    first = train or val or below[places[0]]
    return {"data.root": str(root), "data.train": train or first, "data.val": val or first}
