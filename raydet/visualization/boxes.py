"""Boxes on images: predictions, truth against prediction, contact sheets. Pillow only, with its built-in font.

Colours: a class keeps its colour in every image and run (it depends on the name alone). Truth is green; what it is
compared with is drawn in thinner lines of another colour, so that both stay visible where they coincide.
"""

import colorsys
import hashlib
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]
Pixels = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.floating[Any]] | npt.NDArray[np.integer[Any]]

TRUTH_COLOUR: Colour = (0, 170, 60)
PREDICTION_COLOUR: Colour = (255, 95, 30)
_PAPER: Colour = (250, 250, 250)
_INK: Colour = (25, 25, 25)

_SMALLEST_SIDE = 320
"""Images whose longer side is below this are enlarged before drawing: text over fewer pixels cannot be read."""
_GAP = 8


def class_colour(name: str) -> Colour:
    """Return the colour of a class: the same for the same name, everywhere."""
    seed = hashlib.sha256(name.encode()).digest()
    hue = int.from_bytes(seed[:4], "big") / 2**32
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.65 + seed[4] / 255 * 0.3, 0.75 + seed[5] / 255 * 0.25)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_detections(
    image_HW3: Pixels,
    boxes_K4: Boxes,
    labels: Sequence[str],
    scores: Sequence[float] | None = None,
    colour: Colour | None = None,
) -> Image.Image:
    """Return the image with boxes and label tags; the input is not changed.

    Args:
        image_HW3: uint8 RGB; a small one is enlarged.
        boxes_K4: xyxy in pixels of `image_HW3`; what lies outside is cut off, what is not finite is left out.
        labels: a text per box; "" draws no tag.
        scores: shown behind the label as percent. None: labels only.
        colour: of all boxes. None: each class its own.
    """
    image, zoom = _canvas(image_HW3)
    colours = [colour or class_colour(label) for label in labels]
    texts = [_tag_text(label, None if scores is None else float(scores[i])) for i, label in enumerate(labels)]
    # The surest last: its box and tag lie on top.
    order = range(len(labels)) if scores is None else sorted(range(len(labels)), key=lambda i: float(scores[i]))
    _draw(image, np.asarray(boxes_K4, np.float64).reshape(-1, 4) * zoom, texts, colours, list(order), 1.0)
    return image


def draw_comparison(
    image_HW3: Pixels,
    truth_K4: Boxes,
    truth_labels: Sequence[str],
    boxes_K4: Boxes,
    labels: Sequence[str],
    scores: Sequence[float] | None = None,
) -> Image.Image:
    """Return the image with the truth in green and, thinner and on top, the prediction in orange.

    Arguments as in `draw_detections`; a truth's tag hangs below its box, a prediction's stands above.
    """
    image, zoom = _canvas(image_HW3)
    truth = np.asarray(truth_K4, np.float64).reshape(-1, 4) * zoom
    texts = [_tag_text(label, None) for label in truth_labels]
    taken = _draw(image, truth, texts, [TRUTH_COLOUR] * len(texts), list(range(len(texts))), 1.6, below=True)
    found = np.asarray(boxes_K4, np.float64).reshape(-1, 4) * zoom
    texts = [_tag_text(label, None if scores is None else float(scores[i])) for i, label in enumerate(labels)]
    order = range(len(labels)) if scores is None else sorted(range(len(labels)), key=lambda i: float(scores[i]))
    _draw(image, found, texts, [PREDICTION_COLOUR] * len(texts), list(order), 0.8, taken=taken)
    return image


def caption(image_HW3: Pixels, text: str) -> Image.Image:
    """Return the image with `text` on a plate in its upper left corner; a small one is enlarged."""
    image, _ = _canvas(image_HW3)
    font = _font(min(40, max(13, round(max(image.size) / 36))))
    _tag(ImageDraw.Draw(image), image.size, (0, 0, *image.size), text, _INK, font, False, ())
    return image


def contact_sheet(images: Sequence[Image.Image], columns: int, captions: Sequence[str] | None = None) -> Image.Image:
    """Return a contact sheet, row by row; columns are as wide as the widest image, captions stand below each.

    Raises:
        ValueError: no image, no column, or not a caption for each.
    """
    if not images or columns < 1:
        raise ValueError(f"a sheet needs images and columns, got {len(images)} images and {columns} columns")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"a sheet needs a caption for each image, got {len(captions)} for {len(images)}")
    columns = min(columns, len(images))
    width = max(image.width for image in images)
    rows = [range(first, min(first + columns, len(images))) for first in range(0, len(images), columns)]
    heights = [max(images[i].height for i in row) for row in rows]
    font = _font(max(13, width // 30))
    strip = _line_height(font) + 2 if captions is not None else 0
    page = Image.new("RGB", (columns * (width + _GAP) + _GAP, sum(heights) + len(rows) * (strip + _GAP) + _GAP), _PAPER)
    pen = ImageDraw.Draw(page)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            middle = _GAP + column * (width + _GAP) + width // 2
            page.paste(images[i].convert("RGB"), (middle - images[i].width // 2, top))
            if captions is not None:
                text = _fitted(captions[i], font, width)
                pen.text((middle - font.getlength(text) / 2, top + images[i].height), text, _INK, font)
        top += height + strip + _GAP
    return page


def _canvas(image_HW3: Pixels) -> tuple[Image.Image, float]:
    if image_HW3.dtype != np.uint8 or image_HW3.ndim != 3 or image_HW3.shape[2] != 3 or 0 in image_HW3.shape:
        raise ValueError(f"image_HW3 must be uint8 [H, W, 3], got {image_HW3.dtype} {list(image_HW3.shape)}")
    image = Image.fromarray(np.ascontiguousarray(image_HW3)).copy()
    zoom = max(1, math.ceil(_SMALLEST_SIDE / max(image.size)))
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.BICUBIC), float(zoom)


def _tag_text(label: str, score: float | None) -> str:
    if not label or score is None:
        return _printable(label)
    return f"{_printable(label)} {score:.0%}" if math.isfinite(score) else f"{_printable(label)} ?"


def _printable(text: str) -> str:
    """Return one line of what Pillow's font has: a class name may hold anything. Accents go, other scripts become ?."""
    plain = unicodedata.normalize("NFKD", text.replace("\u00df", "ss"))
    bare = "".join(c for c in plain if not unicodedata.combining(c))
    return "".join(" " if not c.isprintable() else c if c.isascii() else "?" for c in bare)


def _draw(
    image: Image.Image,
    boxes_K4: npt.NDArray[np.float64],
    texts: Sequence[str],
    colours: Sequence[Colour],
    order: Sequence[int],
    weight: float,
    below: bool = False,
    taken: Sequence[Rectangle] = (),
) -> list[Rectangle]:
    """Draw boxes and their tags, clear of the plates in `taken`; return these and the new plates."""
    if len(boxes_K4) != len(texts):
        raise ValueError(f"{len(boxes_K4)} boxes need as many labels, got {len(texts)}")
    pen = ImageDraw.Draw(image)
    side = max(image.size)
    line = max(1, round(weight * max(2, side / 280)))
    font = _font(min(40, max(13, round(side / 36))))
    shown = [i for i in order if np.isfinite(boxes_K4[i]).all()]
    placed = {i: _inside(boxes_K4[i], image.size) for i in shown}
    for i, (left, top, right, bottom) in placed.items():
        pen.rectangle((left, top, right, bottom), outline=colours[i], width=line)
    plates = list(taken)
    for i in reversed(shown):  # all tags above all boxes; the surest has the first choice of places
        if texts[i]:
            plates.append(_tag(pen, image.size, placed[i], texts[i], colours[i], font, below, plates))
    return plates


def _inside(box: npt.NDArray[np.float64], size: tuple[int, int]) -> Rectangle:
    """Return the box in order and within the image, as Pillow wants it."""
    low = np.minimum(box[:2], box[2:]).clip(0, np.array(size) - 1)
    high = np.maximum(box[:2], box[2:]).clip(0, np.array(size) - 1)
    return round(low[0]), round(low[1]), round(high[0]), round(high[1])


def _tag(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: Rectangle,
    text: str,
    colour: Colour,
    font: ImageFont.FreeTypeFont,
    below: bool,
    taken: Sequence[Rectangle],
) -> Rectangle:
    """Draw a label on a plate at the box, where no other tag is if such a place exists, and return the plate."""
    text = _fitted(text, font, size[0] - 6)
    width, height = math.ceil(font.getlength(text)) + 6, _line_height(font) + 2
    left, top, right, bottom = box
    over, under = [top - height, top], [bottom + 1, bottom + 1 - height]
    ladder = [top + step * height for step in range(1, 8)]
    places = [(x, y) for y in (under + over if below else over + under) + ladder for x in (left, right + 1 - width)]
    fits = [(x, y) for x, y in places if 0 <= x <= size[0] - width and 0 <= y <= size[1] - height]
    free = [(x, y) for x, y in fits if not any(_meet((x, y, x + width, y + height), other) for other in taken)]
    x, y = (free or fits or [(max(0, min(left, size[0] - width)), max(0, min(top, size[1] - height)))])[0]
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    pen.text((x + 3, y + 1), text, _contrast(colour), font)
    return x, y, x + width, y + height


def _meet(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _contrast(colour: Colour) -> Colour:
    """Return black or white, whichever reads better on `colour` (WCAG 2 relative luminance)."""
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise OSError("this Pillow was built without FreeType, which drawing labels needs; install Pillow's own wheel")
    return font


def _line_height(font: ImageFont.FreeTypeFont) -> int:
    ascent, descent = font.getmetrics()
    return ascent + descent


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Return `text`, its end cut where it is wider than `width`."""
    text = _printable(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return f"{text}..." if text else ""
