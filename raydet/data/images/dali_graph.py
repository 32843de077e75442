"""DALI's graph of a whole sample: decode the window, resize, flip, vary the colours, pad. Nothing is drawn in it.

Windows, flips and AutoAugment's operations are fed in, drawn by raydet as for the other backends; boxes never enter.
The same graph runs on the CPU, where its tests are: there every pixel of a bilinear view is within a level of the torch
backend's. `nvidia.dali.auto_aug` takes draws from outside only as indexes into bins that it makes itself, and its
contrast, sharpness and equalizing are not Pillow's; so the operations are put together here from DALI's own.
Given up: Pillow's draft, a smaller decoding of what is shown at half its size or less.
"""

from typing import Any

import numpy as np

from raydet.data.images.autoaugment import GREY
from raydet.data.images.dali_inputs import (
    AFFINE,
    GREY_BLEND,
    LEVELS,
    MEAN_BLEND,
    NONE,
    SLOTS,
    SMOOTH_BLEND,
    STRETCH,
    Device,
    Shape,
)

DEPTH = 2
"""Batches that are in the graph at a time, at most."""

_LUMA = (19595, 38470, 7471)
"""Pillow's grey, in 65536ths of red, green and blue (ITU-R 601-2)."""


def build(shape: Shape) -> Any:
    """Return the graph as a DALI pipeline. Each of its runs needs a `feed`; its one output is pixels_BHW3, uint8."""
    from nvidia.dali import pipeline_def

    # Not "pipelined": the first run would ask for two batches at once, and an epoch may have one.
    options: dict[str, Any] = {"exec_dynamic": True, "exec_async": True, "exec_pipelined": False}
    options |= {"prefetch_queue_depth": DEPTH, "enable_conditionals": True}
    made = pipeline_def(_graph, batch_size=shape.batch, num_threads=shape.threads, device_id=shape.device_id, **options)
    pipeline = made(shape)
    pipeline.build()
    return pipeline


def _source(name: str, ndim: int, dtype: Any) -> Any:
    from nvidia.dali import fn

    return fn.external_source(name=name, ndim=ndim, dtype=dtype)


def _graph(shape: Shape) -> Any:
    from nvidia.dali import fn, types

    ints, floats = types.INT32, types.FLOAT
    images = fn.decoders.image_slice(
        _source("encoded", 1, types.UINT8),
        start=_source("start", 1, ints),
        shape=_source("shape", 1, ints),
        axes=[0, 1],
        device="mixed" if shape.device == "gpu" else "cpu",
        output_type=types.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,
    )
    images = _resized(shape, images)
    images = fn.flip(images, horizontal=_source("flip", 0, ints))
    if shape.jitter:
        factor_3 = _source("jitter", 1, floats)
        images = _blend(images, 0.0, _on(shape.device, factor_3[0]))
        images = _blend(images, _mean(shape.device, images), _on(shape.device, factor_3[1]))
        images = _blend(images, _grey(shape.device, images), _on(shape.device, factor_3[2]))
    if shape.autoaugment:
        for slot in range(SLOTS):
            kind, numbers = _source(f"kind{slot}", 0, ints), _source(f"numbers{slot}", 1, floats)
            bits, *others = (_on(shape.device, numbers[i]) for i in range(3))
            level = (fn.cast(bits, dtype=types.UINT8), *others, fn.reshape(numbers[3:9], shape=[2, 3]))
            images = _operation(shape, images, kind, *level)
    side = (shape.size, shape.size)
    return fn.crop(
        images, crop=side, crop_pos_x=0.0, crop_pos_y=0.0, out_of_bounds_policy="pad", fill_values=shape.fill
    )


def _resized(shape: Shape, images: Any) -> Any:
    """Beyond an image's edge DALI takes the edge's pixels, Pillow and torch take none and weigh the others more: so
    there is black around it here, and what weight fell on black is made up for."""
    from nvidia.dali import fn, math, types

    margin = _source("margin", 1, types.INT32)
    whole = fn.slice(images, start=-margin, end=_source("end", 1, types.INT32), axes=[0, 1], out_of_bounds_policy="pad")
    content = fn.resize(
        whole,
        size=_source("content", 1, types.FLOAT),
        roi_start=_source("roi_start", 1, types.FLOAT),
        roi_end=_source("roi_end", 1, types.FLOAT),
        interp_type=types.INTERP_CUBIC if shape.interpolation == "bicubic" else types.INTERP_LINEAR,
        antialias=True,
        dtype=types.FLOAT,
    )
    rows_H11, columns_1W1 = (_on(shape.device, _source(name, 3, types.FLOAT)) for name in ("rows", "columns"))
    return fn.cast(math.clamp(math.floor(content * rows_H11 * columns_1W1 + 0.5), 0, 255), dtype=types.UINT8)


def _on(device: Device, number: Any) -> Any:
    """Arithmetic wants its operands where the images are; arguments of operators stay on the CPU."""
    return number.gpu() if device == "gpu" else number


def _operation(shape: Shape, images: Any, kind: Any, bits: Any, first: Any, factor: Any, matrix: Any) -> Any:
    """Each image after the operation of its kind; DALI splits the batch at every `if`."""
    from nvidia.dali import fn, types

    if kind <= AFFINE:
        if kind == NONE:
            changed = images
        elif kind == LEVELS:
            kept = images & bits
            changed = kept ^ ((kept >= first) * types.Constant(255, dtype=types.UINT8))
        else:
            nearest = types.INTERP_NN
            changed = fn.warp_affine(images, matrix=matrix, fill_value=GREY, interp_type=nearest, inverse_map=True)
    else:
        if kind <= MEAN_BLEND:
            if kind == GREY_BLEND:
                changed = _blend(images, _grey(shape.device, images), factor)
            else:
                changed = _blend(images, _mean(shape.device, images), factor)
        elif kind == SMOOTH_BLEND:
            changed = _blend(images, _smooth(shape.device, shape.size, images), factor)
        elif kind == STRETCH:
            changed = _stretched(images)
        else:
            changed = _equalized(images)
    return changed


def _smooth(device: Device, size: int, images: Any) -> Any:
    """Pillow's SMOOTH, which leaves the outermost pixels as they are."""
    from nvidia.dali import fn, types

    kernel_33 = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
    inner_SS1 = np.pad(np.ones((size - 2, size - 2, 1), np.uint8), ((1, 1), (1, 1), (0, 0)))
    smooth = fn.filter(images, types.Constant(kernel_33, device=device))
    whole = smooth * types.Constant(inner_SS1, device=device) + images * types.Constant(1 - inner_SS1, device=device)
    return fn.cast(whole, dtype=types.INT32)  # a difference of two 8-bit images would have 8 bits


def _equalized(images: Any) -> Any:
    """Pillow's counts the pixels below a level, DALI's those up to it: of the negative, that is the same."""
    from nvidia.dali import fn, types

    white = types.Constant(255, dtype=types.UINT8)
    return white - fn.equalize(white - images)


def _stretched(images: Any) -> Any:
    from nvidia.dali import fn, math, types

    low = fn.cast(fn.reductions.min(images, axes=[0, 1], keep_dims=True), dtype=types.INT32)
    high = fn.cast(fn.reductions.max(images, axes=[0, 1], keep_dims=True), dtype=types.INT32)
    wide = (images - low) * 255 // math.max(high - low, 1)
    return fn.cast(wide + low * (high == low), dtype=types.UINT8)


def _grey(device: Device, images: Any) -> Any:
    from nvidia.dali import fn, types

    weights_3 = types.Constant(np.array(_LUMA, np.int32), device=device)
    return (fn.reductions.sum(images * weights_3, axes=[2], keep_dims=True) + 32768) // 65536


def _mean(device: Device, images: Any) -> Any:
    from nvidia.dali import fn, math

    return math.floor(fn.reductions.mean(_grey(device, images), axes=[0, 1], keep_dims=True) + 0.5)


def _blend(images: Any, centre: Any, factor: Any) -> Any:
    """Pillow's: cut to whole levels, not rounded."""
    from nvidia.dali import fn, math, types

    return fn.cast(math.clamp(math.floor(centre + (images - centre) * factor), 0, 255), dtype=types.UINT8)
