"""Makes a batch from its key, in whatever process it is asked for: by Pillow, or with DALI where that can decode.

Pillow is what the images are held to: whatever DALI does not take or cannot decode, it decodes, or names the fault.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from raydet.config import Config
from raydet.data.columns import Ints
from raydet.data.formats.index import Index
from raydet.data.images.dali_decoder import WindowDecoder, plain_jpeg
from raydet.data.images.decode import DRAFTED, loaded
from raydet.data.images.resample import Pixels, cut_array
from raydet.data.loading.batch import Batch
from raydet.data.loading.samples import (
    EVAL,
    Sample,
    SamplePlan,
    finished,
    input_size,
    plan_sample,
    sample,
    sample_seed,
    shrink,
    stated_size,
)
from raydet.data.storage.files import Source
from raydet.exceptions import DataError

Key = tuple[int, Ints]
"""An epoch, or EVAL, and the rows of a batch."""


class Maker(Dataset["Batch | DataError"]):
    """Makes a batch from its key. An error is handed over as a value: DataLoader would wrap it in a traceback."""

    def __init__(self, cfg: Config, index: Index, rows: Ints) -> None:
        """Raises ValueError when model.image_size is None."""
        self._cfg, self._index, self._rows, self._size = cfg, index, rows, input_size(cfg)
        self._decoder = WindowDecoder() if cfg.data.backend == "dali-cpu" else None

    def __getitem__(self, key: Key) -> Batch | DataError:
        epoch, rows = key
        pixels_BHW3 = np.empty((len(rows), self._size, self._size, 3), np.uint8)
        bad: dict[str, str] = {}
        sources = self._fetched(rows.tolist())
        try:
            made = self._by_dali(epoch, rows, sources, pixels_BHW3)
            for i, row in enumerate(rows.tolist()):
                if made[i] is None:
                    made[i] = self.sample(epoch, row, bad, pixels_BHW3[i], sources[i])
        except DataError as error:
            return error
        kept = [i for i, one in enumerate(made) if one is not None]
        if len(kept) < len(made):
            pixels_BHW3 = pixels_BHW3[kept]
        return collated(self._cfg, epoch, pixels_BHW3, [s for s in made if s is not None], bad)

    def _fetched(self, rows: list[int]) -> list[Source | None]:
        """The rows' images from a store far away, asked for together; None where each is opened when it is needed."""
        files = self._index.files
        if files.at_once == 1:
            return [None] * len(rows)
        with ThreadPoolExecutor(files.at_once, "raydet-fetch") as pool:
            return list(pool.map(self._source, rows))

    def _source(self, row: int) -> Source | None:
        try:
            return self._index.image(row)
        except DataError:
            return None  # asked for again, it is reported or replaced as any other

    def sample(
        self, epoch: int, row: int, bad: dict[str, str], canvas_HW3: Pixels, source: Source | None = None
    ) -> Sample | None:
        """Return the row's sample by Pillow; in place of an unreadable one the next readable row's, in evaluation None.

        Args:
            bad: takes the name of each unreadable image, with the cause.
            source: the row's image, if it is at hand.

        Raises:
            DataError: data.on_bad=fail, or nothing can be read.
        """
        at = int(np.searchsorted(self._rows, row))
        for _ in range(len(self._rows)):
            try:
                return sample(self._cfg, self._index, epoch, row, canvas_HW3, source)
            except DataError as error:
                if self._cfg.data.on_bad == "fail":
                    raise
                bad[self._index.names[row]] = str(error)
            if epoch == EVAL:
                return None
            at = (at + 1) % len(self._rows)
            row, source = int(self._rows[at]), None
        raise DataError(f"none of {len(self._rows)} images can be read", rule="IMG-E07")

    def _by_dali(
        self, epoch: int, rows: Ints, sources: list[Source | None], pixels_BHW3: npt.NDArray[np.uint8]
    ) -> list[Sample | None]:
        """Return the samples that DALI can decode, None for the others; all None without DALI."""
        made: list[Sample | None] = [None] * len(rows)
        if self._decoder is None:
            return made
        plans: list[tuple[int, SamplePlan, bytes]] = []
        for i, row in enumerate(rows.tolist()):
            try:
                source = loaded(sources[i] or self._index.image(row))
                header = plain_jpeg(source.data, self._cfg.data, stated_size(self._index, row))
                if header is not None:
                    one = plan_sample(self._cfg, self._index, epoch, row, header)
                    if shrink(one) > DRAFTED:
                        plans.append((i, one, source.data))
            except DataError:
                continue  # Pillow's turn: it says what is wrong, or data.on_bad takes another
        windows = [one.view.whole_pixels or (0, 0, one.hw[1], one.hw[0]) for _, one, _ in plans]
        arrays = self._decoder.decode([data for _, _, data in plans], windows)
        for (i, one, _), array in zip(plans, arrays, strict=True):
            if array is not None:
                content_HW3 = cut_array(one.view, array, self._cfg.augment.interpolation)
                made[i] = finished(self._cfg, self._index, one, content_HW3, pixels_BHW3[i])
        return made


def collated(cfg: Config, epoch: int, pixels_BHW3: Pixels, samples: list[Sample], bad: dict[str, str]) -> Batch:
    """Return the samples, whose images are `pixels_BHW3`, as a batch."""
    batch = Batch(
        images_B3HW=torch.from_numpy(pixels_BHW3).permute(0, 3, 1, 2),
        rows_B=torch.tensor([s.row for s in samples], dtype=torch.int64),
        seeds_B=torch.tensor([sample_seed(cfg.run.seed, epoch, s.row) for s in samples], dtype=torch.int64),
        bad=bad,
    )
    if cfg.task == "classification":
        batch.labels_B = torch.tensor([cast(int, s.label) for s in samples], dtype=torch.int64)
        return batch
    batch.boxes_BM4, batch.classes_BM = _padded(samples, cfg.data.max_boxes)
    if epoch == EVAL:
        batch.scale_B2 = torch.tensor([s.scale for s in samples], dtype=torch.float32).reshape(-1, 2)
        batch.size_B2 = torch.tensor([s.size for s in samples], dtype=torch.int64).reshape(-1, 2)
    return batch


def _padded(samples: list[Sample], most: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes with zeros and classes with -1 up to M: `most`, or as many as the fullest sample has, at least 1."""
    truths = [(cast(npt.NDArray[np.float32], s.boxes_K4), cast(npt.NDArray[np.int64], s.classes_K)) for s in samples]
    width = most or max([1, *(len(boxes_K4) for boxes_K4, _ in truths)])
    boxes_BM4 = torch.zeros(len(samples), width, 4)
    classes_BM = torch.full((len(samples), width), -1, dtype=torch.int64)
    for i, (boxes_K4, classes_K) in enumerate(truths):
        boxes_BM4[i, : len(boxes_K4)] = torch.from_numpy(boxes_K4)
        classes_BM[i, : len(classes_K)] = torch.from_numpy(classes_K)
    return boxes_BM4, classes_BM
