"""The same eight images with forty boxes, written as ten formats have them."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

from tests.data.makers import make_image

HW = (60, 80)
CLASSES = ["bee", "cat", "dog"]
Truth = dict[str, list[tuple[str, tuple[int, int, int, int]]]]


def forty() -> Truth:
    """Eight images, each with five boxes (class, x1 y1 x2 y2)."""
    return {
        f"{i}.jpg": [
            (CLASSES[(i + k) % 3], (2 + 7 * k + i, 3 + 4 * k, 12 + 8 * k + i, 20 + 5 * k + i)) for k in range(5)
        ]
        for i in range(8)
    }


def save_images(folder: Path, names: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make_image(i, HW).save(folder / name, quality=90)


def voc_xml(name: str, objects: list[tuple[str, tuple[float, ...]]], size: str | None = None, extra: str = "") -> str:
    if size is None:
        size = f"<size><width>{HW[1]}</width><height>{HW[0]}</height><depth>3</depth></size>"
    boxes = "".join(
        f"<object><name>{escape(c)}</name><difficult>0</difficult><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>"
        f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>\n"
        for c, b in objects
    )
    return f"<annotation>\n<filename>{escape(name)}</filename>{size}\n{boxes}{extra}</annotation>"


def write_voc(root: Path, truth: Truth, annotations: str = "Annotations", images: str = "JPEGImages") -> None:
    save_images(root / images, truth)
    (root / annotations).mkdir(parents=True, exist_ok=True)
    for name, objects in truth.items():
        (root / annotations / name.replace(".jpg", ".xml")).write_text(voc_xml(name, objects))


def write_coco(root: Path, truth: Truth) -> None:
    save_images(root / "images", truth)
    numbered = [(i, box) for i, objects in enumerate(truth.values()) for box in objects]
    content = {
        "images": [{"id": i, "file_name": n, "height": HW[0], "width": HW[1]} for i, n in enumerate(truth)],
        "annotations": [
            {
                "id": k + 1,
                "image_id": i,
                "category_id": CLASSES.index(c) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            }
            for k, (i, (c, (x1, y1, x2, y2))) in enumerate(numbered)
        ],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_default.json").write_text(json.dumps(content))


def yolo_rows(objects: list[tuple[str, tuple[int, int, int, int]]]) -> str:
    return "".join(
        f"{CLASSES.index(c)} {(x1 + x2) / 2 / HW[1]:.6f} {(y1 + y2) / 2 / HW[0]:.6f} {(x2 - x1) / HW[1]:.6f} "
        f"{(y2 - y1) / HW[0]:.6f}\n"
        for c, (x1, y1, x2, y2) in objects
    )


def write_yolo(root: Path, truth: Truth) -> None:
    save_images(root / "images" / "train", truth)
    (root / "labels" / "train").mkdir(parents=True)
    for name, objects in truth.items():
        (root / "labels" / "train" / name.replace(".jpg", ".txt")).write_text(yolo_rows(objects))
    (root / "data.yaml").write_text(f"train: images/train\nval: images/train\nnames: {CLASSES}\n")


def write_cvat_yolo(root: Path, truth: Truth) -> None:
    save_images(root / "obj_train_data", truth)
    for name, objects in truth.items():
        (root / "obj_train_data" / name.replace(".jpg", ".txt")).write_text(yolo_rows(objects))
    (root / "obj.names").write_text("\n".join(CLASSES) + "\n")
    (root / "obj.data").write_text("classes = 3\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    (root / "train.txt").write_text("".join(f"data/obj_train_data/{name}\n" for name in truth))


def write_label_studio_yolo(root: Path, truth: Truth) -> None:
    save_images(root / "images", truth)
    (root / "labels").mkdir()
    for name, objects in truth.items():
        (root / "labels" / name.replace(".jpg", ".txt")).write_text(yolo_rows(objects))
    (root / "classes.txt").write_text("\n".join(CLASSES))
    (root / "notes.json").write_text('{"categories": [{"id": 0, "name": "bee"}], "info": {"version": "1.0"}}')


def write_labelme(root: Path, truth: Truth) -> None:
    save_images(root, truth)
    for k, (name, objects) in enumerate(truth.items()):
        shapes = [
            {"label": c, "shape_type": "rectangle", "points": [[x2, y1], [x1, y2]], "flags": {}}
            for c, (x1, y1, x2, y2) in objects
        ]
        content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": "x" * 70_000 * k}
        content |= {"imageHeight": HW[0], "imageWidth": HW[1]}
        (root / name.replace(".jpg", ".json")).write_text(json.dumps(content))


def cvat_image(i: int, name: str, shapes: str, subset: str = "default") -> str:
    return f'<image id="{i}" name="{name}" subset="{subset}" width="{HW[1]}" height="{HW[0]}">{shapes}</image>\n'


def cvat_box(label: str, box: tuple[float, ...], more: str = "") -> str:
    corners = " ".join(f'{key}="{value:.2f}"' for key, value in zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True))
    return f'<box label="{label}" source="manual" occluded="0" {corners} z_order="0" {more}></box>'


def write_cvat(root: Path, truth: Truth) -> None:
    save_images(root / "images", truth)
    images = [cvat_image(i, n, "".join(cvat_box(c, b) for c, b in o)) for i, (n, o) in enumerate(truth.items())]
    head = "<?xml version='1.0' encoding='utf-8'?>\n<annotations><version>1.1</version><meta><task></task></meta>\n"
    (root / "annotations.xml").write_text(head + "".join(images) + "</annotations>")


def region(label: str, box: tuple[float, ...], **more: Any) -> dict[str, Any]:
    x1, y1, x2, y2 = (100 * v / s for v, s in zip(box, (HW[1], HW[0]) * 2, strict=True))
    value = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0, "rectanglelabels": [label]}
    size = {"original_width": HW[1], "original_height": HW[0], "image_rotation": 0}
    return {"value": value, **size, "type": "rectanglelabels", "from_name": "label", "to_name": "image", **more}


def write_labelstudio(root: Path, truth: Truth) -> None:
    save_images(root / "images", truth)
    tasks = [
        {
            "id": i,
            "data": {"image": f"/data/upload/1/0a1b2c3d-{name}"},
            "annotations": [{"id": i, "was_cancelled": False, "result": [region(c, b) for c, b in objects]}],
            "predictions": [],
        }
        for i, (name, objects) in enumerate(truth.items())
    ]
    (root / "project-1.json").write_text(json.dumps(tasks))


def write_labelstudio_min(root: Path, truth: Truth) -> None:
    save_images(root / "images", truth)
    tasks = []
    for i, (name, objects) in enumerate(truth.items()):
        regions = [region(c, b) for c, b in objects]
        flat = [
            {**one["value"], "original_width": one["original_width"], "original_height": one["original_height"]}
            for one in regions
        ]
        image = f"/data/local-files/?d={quote('images/' + name)}"
        tasks.append({"image": image, "id": i, "label": flat, "annotator": 1, "annotation_id": i})
    (root / "min.json").write_text(json.dumps(tasks))


def write_createml(root: Path, truth: Truth) -> None:
    save_images(root, truth)
    entries = [
        {
            "image": name,
            "annotations": [
                {
                    "label": c,
                    "coordinates": {"x": (x1 + x2) / 2, "y": (y1 + y2) / 2, "width": x2 - x1, "height": y2 - y1},
                }
                for c, (x1, y1, x2, y2) in objects
            ],
        }
        for name, objects in truth.items()
    ]
    (root / "_annotations.createml.json").write_text(json.dumps(entries))


def write_csv(root: Path, truth: Truth) -> None:
    save_images(root, truth)
    rows = [f"{n},{HW[1]},{HW[0]},{c},{','.join(map(str, b))}\n" for n, objects in truth.items() for c, b in objects]
    (root / "_annotations.csv").write_text("filename,width,height,class,xmin,ymin,xmax,ymax\n" + "".join(rows))


def write_retinanet_csv(root: Path, truth: Truth) -> None:
    save_images(root / "images", truth)
    rows = [f"images/{n},{','.join(map(str, b))},{c}\n" for n, objects in truth.items() for c, b in objects]
    (root / "annotations.csv").write_text("".join(rows))
    (root / "classes.csv").write_text("".join(f"{name},{i}\n" for i, name in enumerate(CLASSES)))


def write_open_images_csv(root: Path, truth: Truth) -> None:
    save_images(root / "data", truth)
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction\n"
    rows = [
        f"{n[:-4]},verification,/m/{c},1,{x1 / HW[1]},{x2 / HW[1]},{y1 / HW[0]},{y2 / HW[0]},0,0,0,0\n"
        for n, objects in truth.items()
        for c, (x1, y1, x2, y2) in objects
    ]
    (root / "boxes.csv").write_text(head + "".join(rows))
    (root / "class-descriptions-boxable.csv").write_text("".join(f"/m/{name},{name}\n" for name in CLASSES))


def write_parquet(root: Path, truth: Truth) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root.mkdir(exist_ok=True)
    images, boxes = [], []
    for i, (_, objects) in enumerate(truth.items()):
        held = io.BytesIO()
        make_image(i, HW).save(held, "JPEG", quality=90)
        images.append({"bytes": held.getvalue(), "path": None})
        boxes.append(
            {
                "bbox": [[float(x1), float(y1), float(x2 - x1), float(y2 - y1)] for _, (x1, y1, x2, y2) in objects],
                "category": [CLASSES.index(c) for c, _ in objects],
            }
        )
    table = pa.table({"image": images, "objects": boxes})
    features = {"objects": {"feature": {"category": {"names": CLASSES, "_type": "ClassLabel"}}}}
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(meta), root / "train.parquet")


LAYOUTS: dict[str, tuple[str, Callable[[Path, Truth], None]]] = {
    "coco": ("coco", write_coco),
    "yolo": ("yolo", write_yolo),
    "voc": ("voc", write_voc),
    "labelme": ("labelme", write_labelme),
    "cvat": ("cvat", write_cvat),
    "cvat-yolo": ("yolo", write_cvat_yolo),
    "labelstudio-yolo": ("yolo", write_label_studio_yolo),
    "labelstudio": ("labelstudio", write_labelstudio),
    "labelstudio-min": ("labelstudio", write_labelstudio_min),
    "createml": ("createml", write_createml),
    "csv": ("csv", write_csv),
    "csv-retinanet": ("csv", write_retinanet_csv),
    "csv-openimages": ("csv", write_open_images_csv),
    "parquet": ("parquet", write_parquet),
}
"""Layout -> value of data.format, and who writes it."""
