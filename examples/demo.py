"""The demo: a classifier learns handwritten digits, its backbone starts a detector, which finds digits on photos.

`make demo` runs this. Interrupted, it continues when started again; a second time it only prints the table.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

import raydet

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--runs", default="runs", help="folder of the runs")
parser.add_argument("--seed", type=int, default=42)


def train(recipe: str, runs: str, seed: int, **changes: object) -> raydet.Result:
    """Train a demo recipe, or continue what was trained before."""
    common = {"run.storage_path": runs, "run.seed": seed, **changes}
    return raydet.fit(raydet.override(raydet.recipe(recipe), common))


def image(detector: raydet.Result, path: Path) -> Path:
    """Draw what the detector finds in eight validation images (orange) over the truth (green)."""
    index = raydet.open_split(detector.config, "val")
    found = raydet.predict(detector.best, [index.image(i) for i in range(8)])
    images = []
    for i, answer in enumerate(found):
        boxes_K4, labels_K, _ = index.boxes_of(i)
        truth = [index.class_names[label] for label in labels_K]
        pixels_HW3 = np.asarray(Image.open(answer.image).convert("RGB"))
        images.append(
            raydet.draw_comparison(pixels_HW3, boxes_K4, truth, answer.boxes_K4, answer.names, answer.scores_K)
        )
    raydet.contact_sheet(images, columns=4).save(path)
    return path


def epochs(result: raydet.Result) -> list[dict[str, float]]:
    """Return the figures of each epoch."""
    return [json.loads(line) for line in (result.dir / "metrics.jsonl").read_text().splitlines()]


def row(name: str, result: raydet.Result, scores: str) -> str:
    """Return the table's line on one run."""
    cfg, seconds = result.config, epochs(result)[-1]["elapsed_s"]
    images = cfg.schedule.epochs * (3000 if cfg.task == "classification" else 600)
    model = f"{cfg.model.name} {cfg.model.image_size} px"
    return f"{name:<9} {model:<25} {scores:<22} {images:>6} images {seconds:>5.0f} s"


if __name__ == "__main__":
    options = parser.parse_args()
    classifier = train("demo_classification", options.runs, options.seed)
    start = {"model.backbone_weights": str(classifier.best)}
    detector = train("demo_detection", options.runs, options.seed, **start)
    drawn = image(detector, detector.dir / "predictions.png")
    top1, ap, ap50 = classifier.metrics["top1"], detector.metrics["AP"], detector.metrics["AP50"]
    curve = " | ".join(f"{e['elapsed_s']:.0f} s {e['AP50']:.2f}" for e in epochs(detector))
    boxes = len(raydet.open_split(detector.config, "train").boxes)
    print(
        f"\ndata      600 training and 120 validation images, {boxes} boxes, 10 classes: real handwriting on photos\n"
        + row("classify", classifier, f"top-1 {top1:.2f} (chance 0.10)")
        + "\n"
        + row("detect", detector, f"AP50 {ap50:.2f}  AP {ap:.2f}")
        + f"\n          AP50 by time: {curve}\n"
        f"see       {drawn} (green: truth, orange: found)\n"
        f"          {detector.dir}: results.csv, metrics.jsonl, log.json, TensorBoard's events\n"
        f"next      {Path('.venv/bin/raydet')} predict {detector.dir} YOUR-IMAGES\n"
        f"          {Path('.venv/bin/raydet')} fit --help"
    )
