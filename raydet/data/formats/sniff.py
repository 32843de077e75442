"""Of what format a file is, told from its name and its beginning: no more of it is read."""

import csv
import re
from pathlib import Path

from raydet.data.formats.annotated.csv_rows import columns_of
from raydet.data.formats.annotated.readers import is_class_file

_HEAD, _TAIL = 1 << 16, 1 << 12
NOT_READ = {
    "panoptic": "COCO panoptic (segments, no boxes): use the instances_*.json of the same images",
    "via": "VGG Image Annotator's: export it as COCO in VIA",
    "geojson": "GeoJSON (places on a map): cut tiles from the map and export their boxes as COCO or YOLO",
    "supervisely": "Supervisely's: export it as COCO or Pascal VOC there",
    "tfrecord": "TFRecord: export the set as COCO or Pascal VOC, as Roboflow, CVAT and FiftyOne do",
    "webdataset": "tar files, as WebDataset has them: unpack them into a folder of images with annotations",
    "cvat-video": "CVAT for video (tracks): export it as CVAT for images 1.1, with the images",
}
"""What is recognized and not read -> what it is, and the remedy."""
SUFFIXES = (".json", ".xml", ".csv", ".yaml", ".yml", ".parquet", ".tfrecord", ".tfrecords", ".record", ".tar")
_BY_SUFFIX = {
    ".parquet": "parquet",
    ".yaml": "yolo",
    ".yml": "yolo",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
    ".record": "tfrecord",
    ".tar": "webdataset",
}


def sniff(path: Path) -> str | None:
    """Return a value of data.format, a key of NOT_READ, "json" for JSON of no known kind, or None for anything else."""
    suffix = path.suffix.lower()
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    if suffix not in SUFFIXES:
        return None
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            file.seek(max(len(head), path.stat().st_size - _TAIL))
            tail = file.read(_TAIL)
    except OSError:
        return None
    text, end = head.decode("utf-8-sig", "replace").lstrip(), tail.decode("utf-8", "replace")
    return {".json": _json, ".xml": _xml, ".csv": _csv}[suffix](path, text, end)


def _json(path: Path, head: str, tail: str) -> str:
    def has(*names: str) -> bool:
        return any(re.search(rf'"{name}"\s*:', head + tail) for name in names)

    if head.startswith("["):
        if has("coordinates") and has("image", "imagefilename"):
            return "createml"
        return "labelstudio" if has("original_width", "annotations", "completions", "rectanglelabels") else "json"
    if has("segments_info"):
        return "panoptic"
    if has("_via_settings", "_via_img_metadata", "shape_attributes", "region_attributes"):
        return "via"
    if re.search(r'"type"\s*:\s*"(FeatureCollection|Feature)"', head):
        return "geojson"
    if has("shapes") and has("imagePath", "imageHeight", "imageData"):
        return "labelme"
    if has("classTitle") and has("objects"):
        return "supervisely"
    return "coco" if has("images", "image_id", "file_name") else "json"


def _xml(path: Path, head: str, tail: str) -> str | None:
    root = re.search(r"<([A-Za-z_][\w.-]*)", re.sub(r"<!--.*?-->", "", head, flags=re.DOTALL))
    if root is None or root[1] not in ("annotation", "annotations"):
        return None
    if root[1] == "annotation":
        return "voc"
    return "cvat-video" if "<track " in head and "<image " not in head else "cvat"


def first_row(path: Path) -> list[str]:
    """Return the first row of a CSV file; [] where there is none."""
    with path.open("rb") as file:
        return _first_row(file.read(_HEAD).decode("utf-8-sig", "replace"))


def _first_row(head: str) -> list[str]:
    try:
        return next(csv.reader(head.splitlines()[:1]), [])
    except csv.Error:
        return []


def _csv(path: Path, head: str, tail: str) -> str | None:
    first = _first_row(head)
    if any("region_shape_attributes" in cell for cell in first):
        return "via"
    return "csv" if not is_class_file(path.name) and columns_of(first) is not None else None
