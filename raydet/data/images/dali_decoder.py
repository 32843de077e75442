"""NVIDIA DALI as a decoder on the CPU: just the window of a JPEG that a sample shows, to Pillow's pixels.

libjpeg's own cropping leaves out the inverse transform and the colours of what is not shown: a random resized crop of a
500 x 375 JPEG takes 0.55 of the time of Pillow's whole image. The pixels are Pillow's bit for bit, at the window's
borders too (166 000 windows of 4:2:0, 4:2:2 and 4:4:4, baseline and progressive), but for windows of one column.
Resizing is left to torch: DALI's takes three times as long (docs/decisions/0008-dali.md).
Given up: PNG and other formats, which DALI always decodes as a whole.
"""

import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from raydet.config import Config, Data
from raydet.data.images.decode import HW, ORIENTATION, PARSER_ERRORS, may_turn
from raydet.data.images.resample import Pixels
from raydet.exceptions import ConfigError

Window = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels of the file, unturned."""

_FRAMES = (0xC0, 0xC1, 0xC2)
"""Markers of baseline, extended and progressive frames; Huffman coding."""
_SKIPPED = (0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0))
"""Markers before a frame: tables, restart interval, comment, applications'."""
_APP1 = 0xE1
"""Marker of a segment with EXIF or XMP data."""

_MOST = 8
"""Images per run of the pipeline: more are no faster (0.94 ms an image at 4, 8 and 32; 1.2 at 1)."""
_PIXELS = 16_000_000
"""Window pixels per run. DALI never gives memory back, so this bounds what a loader process keeps."""


def installed() -> bool:
    """Return whether nvidia-dali can be imported, without importing it."""
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # no package nvidia.* at all
        return False


def check_installed(cfg: Config) -> None:
    """Refuse a DALI backend without DALI, before anything starts.

    Raises:
        ConfigError: data.backend needs nvidia-dali, which is not installed.
    """
    if cfg.data.backend == "torch" or installed():
        return
    missing = f"data.backend={cfg.data.backend} but nvidia-dali is not installed"
    raise ConfigError(f'{missing}: pip install "raydet[dali]", or set data.backend=torch')


@dataclass(frozen=True, slots=True)
class Header:
    """What a JPEG says of itself."""

    hw: tuple[int, int]
    """Height and width."""


def plain_jpeg(data: bytes, options: Data, stated: HW | None = None) -> Header | None:
    """Return the header of a file that DALI decodes to Pillow's pixels; None: it is for Pillow, to decode or refuse.

    That is 8-bit RGB or grey, within data.max_pixels, not turned by EXIF, and with an end: a cut file's first lines
    would pass for a whole image. Read here, as Pillow's way takes 0.06 ms: as long as all of a sample's draws.

    Args:
        stated: as in `may_turn`.
    """
    if data[:2] != b"\xff\xd8" or data[-2:] != b"\xff\xd9":
        return None
    at = 2
    about: list[bytes] = []
    while at + 10 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker in _FRAMES:
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            plain = data[at + 4] == 8 and data[at + 9] in (1, 3) and 0 < height * width <= options.max_pixels
            if about and plain and may_turn(options.exif, (height, width), stated):
                plain = not any(_turns(one) for one in about)
            return Header((height, width)) if plain else None
        if marker not in _SKIPPED:
            return None
        if marker == _APP1:
            about.append(data[at + 4 : at + 2 + length])
        at += 2 + length
    return None


def _turns(about: bytes) -> bool:
    """Return whether an application's segment may say that the image is to be turned."""
    if not about.startswith(b"Exif\0\0"):
        return b"tiff:Orientation" in about
    exif = Image.Exif()
    try:
        exif.load(about)
        return bool(exif.get(ORIENTATION, 1) != 1)
    except PARSER_ERRORS:
        return True  # Pillow's own reader says


class WindowDecoder:
    """Decodes windows of JPEG files; it can be pickled and forked, each process builds its own pipeline when needed."""

    def __init__(self) -> None:
        self._pipeline: Any = None
        self._process = 0
        self._inherited: list[Any] = []

    def decode(self, encoded: Sequence[bytes], windows: Sequence[Window]) -> Iterator[Pixels | None]:
        """Yield the pixels_HW3 of each file's window, or None where Pillow must decode it, or say what is wrong.

        An array is DALI's own memory, and valid until the next one is asked for.

        Args:
            encoded: whole files.
            windows: at least 1 x 1 and within the image.
        """
        for part in _parts(encoded, windows):
            # libjpeg smooths the colours of a single column differently.
            chosen = [i for i in part if windows[i][2] - windows[i][0] > 1]
            found = dict(
                zip(chosen, self._run([encoded[i] for i in chosen], [windows[i] for i in chosen]), strict=True)
            )
            for i in part:
                yield found.get(i)

    def close(self) -> None:
        """Give up the pipeline and its thread; another decode builds a new one."""
        self._pipeline = None

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def _run(self, encoded: list[bytes], windows: list[Window]) -> Sequence[Pixels | None]:
        if not encoded:
            return []
        if self._pipeline is None or self._process != os.getpid():
            # A pipeline from before a fork has lost its thread, and waits for it for ever if it is destroyed.
            self._inherited += [self._pipeline] if self._pipeline is not None else []
            self._pipeline, self._process = _built(), os.getpid()
        edges_B4 = np.array(windows, np.int32)
        try:
            self._pipeline.feed_input("encoded", [np.frombuffer(data, np.uint8) for data in encoded])
            self._pipeline.feed_input("start", np.ascontiguousarray(edges_B4[:, 1::-1]))
            self._pipeline.feed_input("shape", edges_B4[:, :1:-1] - edges_B4[:, 1::-1])
            (images,) = self._pipeline.run()
        except RuntimeError:  # one bad file fails them all, and leaves the pipeline unusable
            self.close()
            return [None] * len(encoded)
        return [np.asarray(images[i]) for i in range(len(encoded))]  # images.at(i) takes ten times as long


def _parts(encoded: Sequence[bytes], windows: Sequence[Window]) -> Iterator[list[int]]:
    """Indexes in order, in parts of at most _MOST images and _PIXELS pixels, but of one at least."""
    part: list[int] = []
    pixels = 0
    for i, (x1, y1, x2, y2) in enumerate(windows):
        area = (x2 - x1) * (y2 - y1)
        if part and (len(part) == _MOST or pixels + area > _PIXELS):
            yield part
            part, pixels = [], 0
        part.append(i)
        pixels += area
    if part:
        yield part


def _built() -> Any:
    from nvidia.dali import fn, types
    from nvidia.dali.pipeline import Pipeline

    pipeline = Pipeline(_MOST, 1, None, exec_async=False, exec_pipelined=False, prefetch_queue_depth=1)
    with pipeline:
        encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1, no_copy=True)
        start = fn.external_source(name="start", dtype=types.INT32, ndim=1)
        shape = fn.external_source(name="shape", dtype=types.INT32, ndim=1)
        options = {"axes": [0, 1], "adjust_orientation": False, "output_type": types.RGB}
        pipeline.set_outputs(fn.decoders.image_slice(encoded, start=start, shape=shape, device="cpu", **options))
    pipeline.build()
    return pipeline
