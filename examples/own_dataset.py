"""Bring boxes that are not in COCO format: a table `file,x1,y1,x2,y2,class` becomes annotations, then a detector.

python examples/own_dataset.py boxes.csv images/
"""

import argparse
import csv
import json
from pathlib import Path

from PIL import Image

import raydet

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("table", type=Path)
parser.add_argument("images", type=Path)
options, settings = parser.parse_known_args()

rows = list(csv.DictReader(options.table.open()))
files, classes = sorted({row["file"] for row in rows}), sorted({row["class"] for row in rows})


def coco(names: list[str]) -> dict[str, list[dict[str, object]]]:
    """Return COCO annotations of the named files."""
    images, annotations = [], []
    for number, name in enumerate(names, 1):
        width, height = Image.open(options.images / name).size
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for row in (row for row in rows if row["file"] == name):
            x1, y1, x2, y2 = (float(row[key]) for key in ("x1", "y1", "x2", "y2"))
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": classes.index(row["class"]) + 1}
            annotations.append({"id": len(annotations) + 1, "image_id": number, **box})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


every_fifth = files[::5]
for split, names in (("val", every_fifth), ("train", sorted(set(files) - set(every_fifth)))):
    (options.table.parent / f"{split}.json").write_text(json.dumps(coco(names)))
places = {"data.root": str(options.table.parent), "data.train": "train.json", "data.val": "val.json"}
folders = {"data.train_images": str(options.images.absolute()), "data.val_images": str(options.images.absolute())}
classes_from_data = {"data.class_ids": "contiguous", "model.num_classes": None, "run.name": "own_dataset"}
cfg = raydet.override(raydet.recipe("efficientdet_d0_coco"), places | folders | classes_from_data)
result = raydet.fit(raydet.override(cfg, raydet.parse_overrides(settings)))
print(f"AP50 {result.metrics['AP50']:.3f}  best checkpoint {result.best}")
