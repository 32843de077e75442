"""data.backend=dali-gpu: samples are planned by threads of the training process and made by DALI's graph on its GPU.

What the graph does not take (other files than plain JPEG, whatever cannot be read) is made by Pillow in those threads
and written over a placeholder. A file that only DALI refuses fails the batches that are in the graph: they are made by
Pillow, and the graph is built again. Given up: images to Pillow's bit, as nvJPEG rounds differently.
"""

import io
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from raydet.config import Config
from raydet.data.columns import Ints
from raydet.data.formats.index import Index
from raydet.data.images import dali_graph as graph
from raydet.data.images.dali_decoder import plain_jpeg
from raydet.data.images.dali_inputs import DecodeJob, Device, Shape, feed
from raydet.data.images.decode import loaded
from raydet.data.images.geometry import Geometry
from raydet.data.images.resample import Pixels
from raydet.data.loading.batch import Batch
from raydet.data.loading.batch_dataset import Key, Maker, collated
from raydet.data.loading.samples import (
    EVAL,
    Sample,
    fill_colour,
    input_size,
    operations,
    plan_sample,
    stated_size,
    with_truth,
)
from raydet.exceptions import DataError, one_line


@dataclass(slots=True)
class _Part:
    """One image of a batch: what the graph shall do, or what Pillow has made, or neither if it is left out."""

    job: DecodeJob | None
    sample: Sample | None
    bad: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Order:
    """A batch under way."""

    key: Key
    parts: list[_Part] | DataError
    graph: Any = None
    """What has its jobs; None: they are not under way."""


class GpuFeed:
    """Turns keys into batches whose images are on the GPU already; the rest is on the host."""

    def __init__(self, cfg: Config, index: Index, rows: Ints, device: Device = "gpu") -> None:
        """Args:
        device: "cpu" runs the same graph without a GPU, for tests.

        Raises:
            ValueError: model.image_size is None.
        """
        self._cfg, self._index, self._size, self._device = cfg, index, input_size(cfg), device
        self._maker = Maker(cfg, index, rows)
        self._graph: Any = None
        self._shape: Shape | None = None
        self._running = 0  # batches that the graph has and nobody has taken out
        self._pool: ThreadPoolExecutor | None = None

    def batches(self, keys: list[Key]) -> Iterator[Batch | DataError]:
        """Yield the batch of each key, in order; a DataError is handed over as a value, and ends what is of use."""
        if not keys:
            return
        shape = self._wanted(keys)
        if self._running or shape != self._shape:  # an earlier pass was left in its middle, or was for others
            self._drop()
        self._shape = shape
        pool = self._pool = self._pool or ThreadPoolExecutor(max(1, self._cfg.data.workers), "raydet-dali")
        coming, planned, orders = iter(keys), deque[tuple[Key, list[Future[_Part]]]](), deque[_Order]()
        while True:
            while len(planned) <= self._cfg.data.prefetch and (key := next(coming, None)) is not None:
                planned.append((key, [pool.submit(self._part, key[0], row) for row in key[1].tolist()]))
            while planned and len(orders) < graph.DEPTH:
                orders.append(self._ordered(*planned.popleft()))
            if not orders:
                return
            yield self._made(orders)

    def close(self) -> None:
        """End the threads and give up the graph; another pass starts new ones."""
        self._drop()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None

    def _part(self, epoch: int, row: int) -> _Part:
        try:
            source = loaded(self._index.image(row))
            header = plain_jpeg(source.data, self._cfg.data, stated_size(self._index, row))
            if header is not None:
                one = plan_sample(self._cfg, self._index, epoch, row, header)
                sample = with_truth(self._cfg, self._index, one, np.empty((0, 0, 3), np.uint8))
                return _Part(DecodeJob(source.data, one.view, one.hw, operations(self._cfg, one)), sample)
        except DataError:
            pass  # Pillow's turn: it says what is wrong, or data.on_bad takes another
        return self._by_pillow(epoch, row)

    def _by_pillow(self, epoch: int, row: int) -> _Part:
        part = _Part(None, None)
        part.sample = self._maker.sample(epoch, row, part.bad, np.empty((self._size, self._size, 3), np.uint8))
        return part

    def _ordered(self, key: Key, futures: list["Future[_Part]"]) -> _Order:
        try:
            order = _Order(key, [future.result() for future in futures])
        except DataError as error:
            return _Order(key, error)
        assert isinstance(order.parts, list) and self._shape is not None
        if any(part.job for part in order.parts):
            self._graph = self._graph or graph.build(self._shape)
            try:
                feed(self._graph, self._shape, [part.job or _placeholder(self._size) for part in order.parts])
                self._graph.schedule_run()
                self._running, order.graph = self._running + 1, self._graph
            except RuntimeError as error:
                self._failed(error)
        return order

    def _made(self, orders: "deque[_Order]") -> Batch | DataError:
        order = orders.popleft()
        if isinstance(order.parts, DataError):
            return order.parts
        images_BHW3 = torch.empty(len(order.parts), self._size, self._size, 3, dtype=torch.uint8, device=self._target())
        if any(part.job for part in order.parts) and not self._received(order, images_BHW3):
            epoch, rows = order.key
            try:
                order.parts = [self._by_pillow(epoch, row) for row in rows.tolist()]
            except DataError as error:
                return error
        return self._collated(order.key[0], order.parts, images_BHW3)

    def _received(self, order: _Order, images_BHW3: torch.Tensor) -> bool:
        """Take the order's images out of the graph; False if it failed, and all that was in it is lost."""
        if order.graph is None or order.graph is not self._graph:
            return False
        from nvidia.dali.plugin.pytorch import feed_ndarray

        # Bound to torch's stream the outputs are waited for by the GPU; without one, by this process.
        stream = torch.cuda.current_stream() if self._device == "gpu" else None
        try:
            (pixels_BHW3,) = self._graph.share_outputs(cuda_stream=stream)
            feed_ndarray(pixels_BHW3.as_tensor(), images_BHW3, cuda_stream=stream)
            self._graph.release_outputs()
            self._running -= 1
        except RuntimeError as error:
            self._failed(error)
            return False
        return True

    def _collated(self, epoch: int, parts: list[_Part], images_BHW3: torch.Tensor) -> Batch:
        kept = [i for i, part in enumerate(parts) if part.sample is not None]
        samples = [part.sample for part in parts if part.sample is not None]
        bad = {name: why for part in parts for name, why in part.bad.items()}
        for i, part in enumerate(parts):
            if part.job is None and part.sample is not None:
                images_BHW3[i].copy_(_host(part.sample.pixels_HW3, self._device), non_blocking=True)
        batch = collated(self._cfg, epoch, np.empty((0, 0, 0, 3), np.uint8), samples, bad)
        batch.images_B3HW = (images_BHW3 if len(kept) == len(parts) else images_BHW3[kept]).permute(0, 3, 1, 2)
        return batch

    def _wanted(self, keys: list[Key]) -> Shape:
        augment, training = self._cfg.augment, keys[0][0] != EVAL
        return Shape(
            device=self._device,
            device_id=torch.cuda.current_device() if self._device == "gpu" else None,
            batch=max(len(rows) for _, rows in keys),
            size=self._size,
            interpolation=augment.interpolation,
            fill=fill_colour(self._cfg),
            jitter=training and augment.color_jitter > 0,
            autoaugment=training and self._cfg.task == "classification" and augment.autoaugment is not None,
            threads=max(1, self._cfg.data.workers),
        )

    def _failed(self, error: RuntimeError) -> None:
        self._drop()
        warnings.warn(
            f"DALI failed, the batches it had are made by Pillow: {_cause(error)}", RuntimeWarning, stacklevel=2
        )

    def _drop(self) -> None:
        self._graph, self._running = None, 0

    def _target(self) -> torch.device:
        return torch.device("cuda", torch.cuda.current_device()) if self._device == "gpu" else torch.device("cpu")


def _host(pixels_HW3: Pixels, device: Device) -> torch.Tensor:
    tensor_HW3 = torch.from_numpy(pixels_HW3)
    return tensor_HW3.pin_memory() if device == "gpu" else tensor_HW3


def _cause(error: RuntimeError) -> str:
    lines = [line for line in str(error).splitlines() if line and not line.startswith((" ", "Current pipeline"))]
    return one_line(lines[-1] if lines else str(error))


def _placeholder(size: int) -> DecodeJob:
    """A tiny image in the place of one that Pillow makes."""
    return DecodeJob(_grey_jpeg(), Geometry((0.0, 0.0, 8.0, 8.0), (size, size), (size, size)), (8, 8))


def _grey_jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (128, 128, 128)).save(file, "JPEG")
    return file.getvalue()
