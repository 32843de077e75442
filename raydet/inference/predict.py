"""The verb `raydet.predict`: a trained model on single images, its answers drawn and written down as they come.

Images go through the network one at a time: each is decoded once, answered, drawn, written and let go.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from raydet.data.loading.single import single
from raydet.exceptions import ConfigError, DataError, one_line
from raydet.inference.image_ids import ImageId, image_ids
from raydet.inference.inputs import image_paths
from raydet.inference.result_folder import ResultFolder, coco_rows
from raydet.inference.trained_model import TrainedModel, open_source
from raydet.tasks.build import make_task
from raydet.tasks.detection import Detection, to_file_pixels
from raydet.training.precision import autocast, prepare_device
from raydet.visualization.boxes import caption, draw_detections


@dataclass(frozen=True)
class Detections:
    """What was found in one image, the best first."""

    image: Path
    boxes_K4: npt.NDArray[np.float32]
    """xyxy in pixels of the file, turned as data.exif says, within it."""
    scores_K: npt.NDArray[np.float32]
    """Probabilities."""
    category_ids_K: npt.NDArray[np.int64]
    """The data set's own ids."""
    names: list[str]
    """Class names, "" where unknown."""
    best: tuple[str, float] | None = None
    """Class (its id where it has no name) and probability of the best, also where that is below the threshold; None:
    there is nothing at all."""
    image_id: int = 0
    """As in predictions.json."""


@dataclass(frozen=True)
class Classes:
    """What one image shows, the likeliest first, at most five."""

    image: Path
    names: list[str]
    probabilities_K: npt.NDArray[np.float32]
    category_ids_K: npt.NDArray[np.int64]
    """The classes' ids."""
    image_id: int = 0
    """As in predictions.json."""


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be answered."""

    image: Path
    error: DataError


Answer = Detections | Classes | Unreadable


def predict(
    source: str | Path,
    images: Sequence[str | Path],
    changes: Mapping[str, Any] | None = None,
    *,
    score_threshold: float = 0.3,
    out: str | Path | None = None,
    recursive: bool = False,
    annotations: str | Path | None = None,
) -> list[Detections] | list[Classes]:
    """Return what a trained model sees in each image.

    Args:
        source: a checkpoint, a run's folder (its best checkpoint), an exported ONNX file, or a recipe whose
            model.weights say what to load.
        images: image files, folders of them, patterns, and .txt files with a path on each line; each image once.
        changes: dotted configuration keys, e.g. `{"evaluation.class_agnostic_nms": True, "data.on_bad": "skip"}`.
        score_threshold: detections below this probability are left out of the list and the drawings; predictions.json
            has all down to evaluation.score_threshold.
        out: folder for one PNG per image, `predictions.json` in COCO's results format (of a classifier: without boxes)
            and `images.json`, COCO's list of the images with their ids. It must not hold any of the images. None:
            nothing is written.
        recursive: take the images in sub-folders too.
        annotations: COCO file that says the images' ids. None: those of the configuration's own data set for images
            that lie in it; other images are numbered.

    Raises:
        ConfigError: a path that is not there, a URL. Refused: writing to `out` could lose a file. CheckpointError: a
            damaged checkpoint. DataError: an unreadable image; with `out` after all others were answered and written.
            With data.on_bad=skip it is left out, and only an error if there is no other.
    """
    run = Predictions(
        source,
        images,
        changes,
        score_threshold=score_threshold,
        out=out,
        recursive=recursive,
        annotations=annotations,
    )
    answers: list[Any] = []
    for answer in run:
        if not isinstance(answer, Unreadable):
            answers.append(answer)
        elif out is None and run.trained.cfg.data.on_bad == "fail":
            raise answer.error
    if run.failure is not None:
        raise run.failure
    return answers


class Predictions:
    """The answers to some images, one at a time; nothing of an answer is kept. To be iterated over once."""

    def __init__(
        self,
        source: str | Path,
        images: Sequence[str | Path],
        changes: Mapping[str, Any] | None = None,
        *,
        score_threshold: float = 0.3,
        out: str | Path | None = None,
        recursive: bool = False,
        annotations: str | Path | None = None,
    ) -> None:
        """Check all that can be before the first image; arguments and errors as of `predict`."""
        if not 0 <= score_threshold <= 1:
            raise ConfigError(f"the score threshold must be from 0 to 1, got {score_threshold}")
        folder, self.threshold = None if out is None else Path(out), score_threshold
        keep = [] if annotations is None else [Path(annotations)]
        self.trained = open_source(source, changes or {})
        self.paths = image_paths(images, recursive=recursive, out=folder)
        self.ids = image_ids(self.trained.cfg, self.paths, None if annotations is None else Path(annotations))
        self.unreadable = 0
        self.failure: DataError | None = None
        """When all are answered: what data.on_bad makes of the unreadable ones; None: nothing."""
        device = prepare_device(self.trained.cfg)
        self._task = make_task(self.trained.cfg, self.trained.model.to(device), device)
        self._results = None if folder is None else ResultFolder(folder, self.paths, keep)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def numbered(self) -> int:
        """How many images have an id that no data set says, where others have one."""
        unknown = sum(not one.known for one in self.ids)
        return unknown if unknown < len(self.ids) else 0

    def __iter__(self) -> Iterator[Answer]:
        """Yield the answer to each image once it is drawn and written; predictions.json is there at the end."""
        records: list[dict[str, Any]] = []
        first: DataError | None = None
        if self._results is not None:
            self._results.write_images([_record(one) for one in self.ids], self._categories())
        try:
            for i, path in enumerate(self.paths):
                answer, record = self._answered(i, path, self.ids[i])
                records.append(record)
                if isinstance(answer, Unreadable):
                    self.unreadable += 1
                    first = first or answer.error
                yield answer
            if self._results is not None:
                self._results.write_images(records, self._categories())
                self._results.finish()
        finally:
            if self._results is not None:
                self._results.close()
        if first is not None and (self.trained.cfg.data.on_bad == "fail" or self.unreadable == len(self)):
            what = f"{self.unreadable} of {len(self)} images cannot be read, e.g. {first.file}: {first.what}"
            self.failure = first if len(self) == 1 else DataError(what, rule=first.rule, hint=first.hint)

    def _answered(self, i: int, path: Path, image_id: ImageId) -> tuple[Answer, dict[str, Any]]:
        record = _record(image_id) | {"path": str(path)}
        try:
            answer, image = _one(self.trained, self._task, path, image_id)
        except DataError as error:
            return Unreadable(path, error), record | {"error": error.what}
        if self._results is not None:
            self._results.add(_rows(answer))
            self._results.draw(i, draw(answer, self.threshold, np.asarray(image)))
            record |= {"width": image.width, "height": image.height, "drawing": self._results.drawings[i]}
        return _above(answer, self.threshold), record

    def _categories(self) -> list[dict[str, Any]]:
        pairs = zip(self.trained.category_ids, self.trained.class_names, strict=True)
        return [{"id": number, "name": name or str(number)} for number, name in pairs]


def _record(image_id: ImageId) -> dict[str, Any]:
    record: dict[str, Any] = {"id": image_id.id, "file_name": image_id.name}
    return record if image_id.hw is None else record | {"width": image_id.hw[1], "height": image_id.hw[0]}


@torch.no_grad()
def _one(trained: TrainedModel, task: Any, path: Path, image_id: ImageId) -> tuple[Detections | Classes, Image.Image]:
    """Return everything seen in an image, and the image as it was seen."""
    batch, image = single(trained.cfg, path, image_id.hw)
    with autocast(trained.cfg.precision, task.device):
        outputs = trained.model(task.inputs(batch))
    if not isinstance(task, Detection):
        p, order = outputs[0].float().softmax(-1).topk(min(5, outputs.shape[1]))
        labels = order.tolist()
        ids = np.asarray([trained.category_ids[i] for i in labels], np.int64)
        return Classes(path, [trained.class_names[i] for i in labels], p.cpu().numpy(), ids, image_id.id), image
    (found,) = task.detect(outputs)
    assert batch.scale_B2 is not None and batch.size_B2 is not None
    boxes_K4 = to_file_pixels(found, batch.scale_B2[0], batch.size_B2[0])
    labels = found.classes_K.tolist()
    ids = np.asarray([trained.category_ids[i] for i in labels], np.int64)
    names = [trained.class_names[i] for i in labels]
    best = (names[0] or str(ids[0]), float(found.scores_K[0])) if labels else None
    return Detections(path, boxes_K4.numpy(), found.scores_K.numpy(), ids, names, best, image_id.id), image


def _above(answer: Detections | Classes, threshold: float) -> Detections | Classes:
    if isinstance(answer, Classes):
        return answer
    keep = answer.scores_K >= threshold
    return replace(
        answer,
        boxes_K4=answer.boxes_K4[keep],
        scores_K=answer.scores_K[keep],
        category_ids_K=answer.category_ids_K[keep],
        names=[name for name, kept in zip(answer.names, keep, strict=True) if kept],
    )


def draw(answer: Detections | Classes, threshold: float, image_HW3: npt.NDArray[np.uint8]) -> Image.Image:
    """Return the image, as the answer's model saw it, with the answer drawn into it."""
    seen = _above(answer, threshold)
    if isinstance(seen, Classes):
        return caption(image_HW3, f"{seen.names[0]} {seen.probabilities_K[0]:.2f}")
    labels = [name or str(i) for name, i in zip(seen.names, seen.category_ids_K.tolist(), strict=True)]
    return draw_detections(image_HW3, seen.boxes_K4, labels, seen.scores_K.tolist())


def _rows(answer: Detections | Classes) -> Iterable[dict[str, Any]]:
    """COCO's results; of a classifier without boxes."""
    if isinstance(answer, Detections):
        low_K2, high_K2 = answer.boxes_K4[:, :2], answer.boxes_K4[:, 2:]
        xywh_K4 = np.concatenate([low_K2, high_K2 - low_K2], axis=1)
        return coco_rows(np.full(len(xywh_K4), answer.image_id), xywh_K4, answer.category_ids_K, answer.scores_K)
    pairs = zip(answer.category_ids_K.tolist(), answer.probabilities_K.tolist(), strict=True)
    return ({"image_id": answer.image_id, "category_id": i, "score": round(p, 6)} for i, p in pairs)


def describe(answer: Answer, most: int = 10, threshold: float | None = None) -> str:
    """Return one line: the file and what was seen, the most certain first, at most so many, or why it was not read.

    Args:
        threshold: below which detections were left out; named, with the best of those, where no other is left.
    """
    image = one_line(str(answer.image))  # a name may hold anything
    if isinstance(answer, Unreadable):
        return f"{image}: not read: {one_line(answer.error.what)} ({answer.error.rule})"
    if isinstance(answer, Classes):
        names, scores = answer.names, answer.probabilities_K
    else:
        names = [name or str(i) for name, i in zip(answer.names, answer.category_ids_K.tolist(), strict=True)]
        scores = answer.scores_K
    seen = [f"{name} {score:.2f}" for name, score in zip(names[:most], scores.tolist(), strict=False)]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{image}: {', '.join(seen) or _nothing(answer, threshold)}{more}"


def _nothing(answer: Detections | Classes, threshold: float | None) -> str:
    if threshold is None or isinstance(answer, Classes):
        return "nothing"
    best = "" if answer.best is None else f"; best {answer.best[1]:.2g} {answer.best[0]}"
    return f"nothing above {threshold:.2f}{best}"
