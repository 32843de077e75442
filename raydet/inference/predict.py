"""The verb `raydet.predict`: a trained model on single images, its answers drawn and written down."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from raydet.data import read_rgb
from raydet.data.loading.single import single
from raydet.exceptions import ConfigError
from raydet.inference.trained_model import TrainedModel, open_source
from raydet.tasks.build import make_task
from raydet.tasks.detection import Detection, to_file_pixels
from raydet.training.precision import autocast, prepare_device
from raydet.visualization.boxes import caption, draw_detections

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Detections:
    """What was found in one image, the best first."""

    image: Path
    boxes_K4: npt.NDArray[np.float32]
    """xyxy in pixels of the file, within it."""
    scores_K: npt.NDArray[np.float32]
    """Probabilities."""
    category_ids_K: npt.NDArray[np.int64]
    """The data set's own ids."""
    names: list[str]
    """Class names, "" where unknown."""


@dataclass(frozen=True)
class Classes:
    """What one image shows, the likeliest first, at most five."""

    image: Path
    names: list[str]
    probabilities_K: npt.NDArray[np.float32]


def predict(
    source: str | Path,
    images: Sequence[str | Path],
    changes: Mapping[str, Any] | None = None,
    *,
    score_threshold: float = 0.3,
    out: str | Path | None = None,
) -> list[Detections] | list[Classes]:
    """Return what a trained model sees in each image.

    Args:
        source: a checkpoint, a run's folder (its best checkpoint), an exported ONNX file, or a recipe whose
            model.weights say what to load.
        images: image files, and folders of them.
        changes: dotted configuration keys.
        score_threshold: detections below this probability are left out of the list and the images; the COCO results
            file has all down to evaluation.score_threshold.
        out: folder for one PNG per image and, for detectors, `predictions.json` in COCO's results format, whose
            image_id is the file's name. None: nothing is written.

    Raises:
        ConfigError: a path that is not there. DataError: an unreadable image. CheckpointError: a damaged checkpoint.
    """
    trained = open_source(source, changes or {})
    paths = list(_image_paths(images))
    device = prepare_device(trained.cfg)
    task = make_task(trained.cfg, trained.model.to(device), device)
    folder = None if out is None else Path(out)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    answers = [_one(trained, task, path) for path in paths]
    if folder is not None:
        _write(folder, answers, score_threshold)
    if not isinstance(task, Detection):
        return answers  # type: ignore[return-value]
    return [_above(a, score_threshold) for a in answers if isinstance(a, Detections)]


def _image_paths(images: Iterable[str | Path]) -> Iterable[Path]:
    for path in map(Path, images):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in _SUFFIXES)
            if not inside:
                raise ConfigError(f"no images in {path}; looked for {' '.join(_SUFFIXES)}")
            yield from inside
        elif path.exists():
            yield path
        else:
            raise ConfigError(f"no such image: {path}")


@torch.no_grad()
def _one(trained: TrainedModel, task: Any, path: Path) -> Detections | Classes:
    batch, _ = single(trained.cfg, path)
    with autocast(trained.cfg.precision, task.device):
        outputs = trained.model(task.inputs(batch))
    if not isinstance(task, Detection):
        p, order = outputs[0].float().softmax(-1).topk(min(5, outputs.shape[1]))
        return Classes(path, [trained.class_names[i] for i in order.tolist()], p.cpu().numpy())
    (found,) = task.detect(outputs)
    assert batch.scale_B2 is not None and batch.size_B2 is not None
    boxes_K4 = to_file_pixels(found, batch.scale_B2[0], batch.size_B2[0])
    labels = found.classes_K.tolist()
    ids = np.asarray([trained.category_ids[i] for i in labels], np.int64)
    names = [trained.class_names[i] for i in labels]
    return Detections(path, boxes_K4.numpy(), found.scores_K.numpy(), ids, names)


def _above(answer: Detections, threshold: float) -> Detections:
    keep = answer.scores_K >= threshold
    names = [name for name, kept in zip(answer.names, keep, strict=True) if kept]
    return Detections(answer.image, answer.boxes_K4[keep], answer.scores_K[keep], answer.category_ids_K[keep], names)


def _write(folder: Path, answers: Sequence[Detections | Classes], threshold: float) -> None:
    names = [answer.image.stem for answer in answers]
    for i, answer in enumerate(answers):
        # Two files of one name in different folders must not overwrite each other's image.
        unique = names[i] if names.count(names[i]) == 1 else f"{names[i]}-{i}"
        draw(answer, threshold).save(folder / f"{unique}.png")
    found = [answer for answer in answers if isinstance(answer, Detections)]
    if found:
        rows = [row for answer in found for row in _coco_rows(answer)]
        (folder / "predictions.json").write_text(json.dumps(rows) + "\n")


def draw(answer: Detections | Classes, threshold: float) -> Image.Image:
    """Return the image with the answer drawn into it."""
    image = read_rgb(answer.image)
    if isinstance(answer, Classes):
        return caption(image, f"{answer.names[0]} {answer.probabilities_K[0]:.2f}")
    seen = _above(answer, threshold)
    labels = [name or str(i) for name, i in zip(seen.names, seen.category_ids_K.tolist(), strict=True)]
    return draw_detections(image, seen.boxes_K4, labels, seen.scores_K.tolist())


def _coco_rows(answer: Detections) -> Iterable[dict[str, Any]]:
    for (x1, y1, x2, y2), score, category in zip(
        answer.boxes_K4.tolist(), answer.scores_K.tolist(), answer.category_ids_K.tolist(), strict=True
    ):
        box = [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)]
        yield {"image_id": answer.image.name, "category_id": category, "bbox": box, "score": round(score, 5)}


def describe(answer: Detections | Classes, most: int = 10) -> str:
    """Return one line: the file and what was seen, the most certain first, at most so many."""
    if isinstance(answer, Classes):
        names, scores = answer.names, answer.probabilities_K
    else:
        names = [name or str(i) for name, i in zip(answer.names, answer.category_ids_K.tolist(), strict=True)]
        scores = answer.scores_K
    seen = [f"{name} {score:.2f}" for name, score in zip(names[:most], scores.tolist(), strict=False)]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{answer.image}: {', '.join(seen) or 'nothing'}{more}"
