"""What an exported file says of itself: configuration, classes, how an image becomes its input, what comes out.

It stands in the ONNX file's metadata_props, under names that begin with `raydet.`, as JSON: a peer without raydet can
read there all that it takes to run the graph. What is read back is checked as any text from outside.

Kept: everything but the machine that the network was trained on (sections scaling and precision), for a file is opened
on another one, and its numbers are fixed.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydet import __version__
from raydet.config import Config, Precision, Scaling, as_flat, from_dict, nearest, override, to_dict
from raydet.data.loading.samples import fill_colour, input_size
from raydet.exceptions import CheckpointError, ConfigError
from raydet.models.anchors import ASPECTS, SCALES
from raydet.onnx.graph import CODES, INPUT, LOGITS
from raydet.onnx.postprocess import DETECTIONS
from raydet.onnx.saturation import arithmetic
from raydet.tasks.base import pixel_statistics

if TYPE_CHECKING:
    import onnx

FORMAT_VERSION = 1
"""Version of what stands in the file; raised when an older raydet could not read it."""
TARGETS = ("tensorrt", "onnxruntime")

_PREFIX = "raydet."
_LIMIT_CHARACTERS = 16_000_000
_MOST_CLASSES = 100_000
_OUTPUTS = {"classification": ((LOGITS,),), "detection": ((LOGITS, CODES), (DETECTIONS,))}
_MEANS = {
    LOGITS: "before the softmax (classification) or the sigmoid (detection, [batch, anchors, classes])",
    CODES: "[batch, anchors, 4]: (x - xa) / wa, (y - ya) / ha, log(w / wa), log(h / ha) of box and anchor centres, "
    "sizes; anchors in order of level, row, column, scale, aspect",
    DETECTIONS: "[N, 7], a row a detection: index of the image in the batch, x1, y1, x2, y2 in input pixels, score, "
    "class from 0; image by image, the best score first",
}
_LETTERBOX = "s = min(size / w, size / h); resized to max(1, floor(w s + 0.5)) x max(1, floor(h s + 0.5)), put top left"
_CENTRE = (
    "whole: the short side becomes short_side, the long one floor(short_side * long / short); of it size x size from "
    "(whole - size) // 2 on; both in one resampling of that window of the file, its fractions kept (PIL: resize(box=))"
)
_ANCHORS = (
    "per level l, stride 2^l: centres at (column + 0.5, row + 0.5) strides; for i in 0 .. scales_per_octave - 1, for "
    "each aspect: width and height anchor_scale * stride * 2^(i / scales_per_octave) * aspect"
)
# What the graph holds. memory_format and ops say how torch computes, which evaluation does around the graph.
_FIXED = ("recipe", "model", "quantization", "precision")
_FREE = ("precision.ops", "precision.memory_format")
_DETECTING = ("score_threshold", "top_k", "nms_iou", "soft_nms_sigma", "class_agnostic_nms", "max_detections")


@dataclass(frozen=True, slots=True)
class Anchors:
    """What a detector's anchors follow from, see `raydet.models.anchors.make_anchors`."""

    min_level: int
    max_level: int
    anchor_scale: float


@dataclass(frozen=True, slots=True)
class Metadata:
    """What an exported file is."""

    cfg: Config
    class_names: list[str]
    category_ids: list[int]
    """Class -> the data set's id of it."""
    target: str
    """One of TARGETS."""
    outputs: tuple[str, ...]
    """Names of the graph's outputs, in order."""
    anchors: Anchors | None
    """None: a classifier."""
    source: str
    """The checkpoint or recipe it was made from."""

    @property
    def detects(self) -> bool:
        """Whether decoding and suppression are within the graph."""
        return self.outputs == (DETECTIONS,)


def check_target(target: str) -> None:
    """Raise ConfigError unless there is such a target; names the nearest."""
    if target not in TARGETS:
        close = nearest(target, TARGETS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"target must be {' or '.join(TARGETS)}, got {target!r}{hint}")


def portable(cfg: Config) -> Config:
    """Return `cfg` without the machine it was trained on: on CPUs, in float32, decoded by Pillow."""
    changes = {f"scaling.{name}": value for name, value in as_flat(Scaling()).items()}
    changes |= {f"precision.{name}": value for name, value in as_flat(Precision()).items()}
    return override(cfg, {**changes, "data.backend": "torch"})


def preprocessing(cfg: Config) -> dict[str, Any]:
    """Return how an image becomes the graph's input, for readers that do not have raydet."""
    side, augment = input_size(cfg), cfg.augment
    mean, std = pixel_statistics(cfg)
    filtered = f"{augment.interpolation}, antialiased"
    resize: dict[str, Any]
    if cfg.task == "detection":
        colour = list(fill_colour(cfg))
        resize = {"how": "letterbox", "rule": _LETTERBOX, "filter": filtered, "align": "top left", "fill_rgb": colour}
    else:
        short = side + augment.eval_margin
        resize = {"how": "short side, then centre", "rule": _CENTRE, "short_side": short, "filter": filtered}
    return {
        "input": INPUT,
        "layout": "NCHW",
        "type": "float32",
        "size_hw": [side, side],
        "channels": "RGB",
        "formula": "(pixel / 255 - mean) / std",
        "mean": list(mean),
        "std": list(std),
        "resize": resize,
        "exif_turned": bool(cfg.data.exif),  # auto: where nothing states an annotated size, as there
    }


def write(model: "onnx.ModelProto", about: Metadata) -> None:
    """Put `about` into the model, in place of what raydet has put there before."""
    others = [entry for entry in model.metadata_props if not entry.key.startswith(_PREFIX)]
    kept = [(entry.key, entry.value) for entry in others]
    values = {
        "format": FORMAT_VERSION,
        "version": __version__,
        "task": about.cfg.task,
        "target": about.target,
        "source": about.source,
        "config": to_dict(about.cfg),
        "classes": {"names": about.class_names, "ids": about.category_ids},
        "preprocessing": preprocessing(about.cfg),
        "outputs": {name: _MEANS[name] for name in about.outputs},
        "quantization": to_dict(about.cfg)["quantization"],
        "arithmetic": arithmetic(model),
    }
    if about.anchors is not None:
        anchors = about.anchors
        values["anchors"] = {name: getattr(anchors, name) for name in ("min_level", "max_level", "anchor_scale")}
        # For readers without raydet; ours knows them.
        values["anchors"] |= {"scales_per_octave": SCALES, "aspects_wh": ASPECTS, "rule": _ANCHORS}
    del model.metadata_props[:]
    texts = [(f"{_PREFIX}{name}", json.dumps(value)) for name, value in values.items()]
    for key, text in kept + texts:
        entry = model.metadata_props.add()
        entry.key, entry.value = key, text


def read(model: "onnx.ModelProto", path: Path) -> Metadata:
    """Return what `model`, read from `path`, says of itself.

    Raises:
        CheckpointError: it was not written by `raydet export`, by a newer raydet, or what it says cannot be.
    """
    pairs = [(entry.key, entry.value) for entry in model.metadata_props]
    if not all(isinstance(text, str) for pair in pairs for text in pair):  # protobuf hands over bytes
        raise CheckpointError(f"{path}: its metadata are not UTF-8")
    texts = {key.removeprefix(_PREFIX): text for key, text in pairs if key.startswith(_PREFIX)}
    if "format" not in texts:
        raise CheckpointError(
            f"{path} was not written by `raydet export`: it does not say what its inputs and outputs are"
        )
    if sum(map(len, texts.values())) > _LIMIT_CHARACTERS:
        raise CheckpointError(f"{path}: more than {_LIMIT_CHARACTERS} characters of metadata")
    try:
        values = {name: json.loads(text) for name, text in texts.items()}
        if values["format"] != FORMAT_VERSION:
            raise ValueError(f"format {values['format']}, this raydet reads {FORMAT_VERSION}; use a newer raydet")
        return _checked(values)
    except KeyError as error:
        raise CheckpointError(f"{path}: its metadata lacks {_PREFIX}{error.args[0]}") from error
    except (ValueError, TypeError, RecursionError) as error:  # ConfigError is a ValueError
        raise CheckpointError(f"{path}: its metadata cannot be used: {error}") from error


def _checked(values: Mapping[str, Any]) -> Metadata:
    cfg = from_dict(_of(dict, values["config"], "config"))
    classes = _of(dict, values["classes"], "classes")
    names = [_of(str, name, "a class's name") for name in _of(list, classes["names"], "classes.names")]
    ids = [_of(int, i, "a class's id") for i in _of(list, classes["ids"], "classes.ids")]
    if not 1 <= len(names) == len(ids) <= _MOST_CLASSES:
        raise ValueError(f"{len(names)} class names and {len(ids)} ids; 1 to {_MOST_CLASSES} of both are allowed")
    target = _of(str, values["target"], "target")
    check_target(target)
    outputs = tuple(_of(dict, values["outputs"], "outputs"))
    if outputs not in _OUTPUTS[cfg.task]:
        raise ValueError(f"outputs {outputs} for {cfg.task}; there are {_OUTPUTS[cfg.task]}")
    theirs = _of(dict, values["preprocessing"], "preprocessing")
    ours = preprocessing(cfg)
    for name in ("size_hw", "mean", "std", "channels"):
        if theirs.get(name) != ours[name]:
            raise ValueError(f"preprocessing.{name} is {theirs.get(name)!r}, its configuration makes it {ours[name]!r}")
    anchors = _anchors(_of(dict, values["anchors"], "anchors")) if cfg.task == "detection" else None
    return Metadata(cfg, names, ids, target, outputs, anchors, _of(str, values["source"], "source"))


def _anchors(values: Mapping[str, Any]) -> Anchors:
    low, high = (_of(int, values[name], name) for name in ("min_level", "max_level"))
    scale = values["anchor_scale"]
    if not 1 <= low < high <= 10 or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise ValueError(f"anchors of levels {low} to {high} and scale {scale!r}")
    return Anchors(low, high, float(scale))


def _of(kind: type, value: Any, name: str) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{name} must be {kind.__name__}, got {str(value)[:80]!r}")
    return value


def changed(about: Metadata, changes: Mapping[str, Any], path: Path) -> Config:
    """Return the file's configuration with `changes`.

    Raises:
        ConfigError: a change of what the file holds, or one that cannot be.
    """
    cfg = override(about.cfg, changes)
    before, after = as_flat(about.cfg), as_flat(cfg)
    for key in {**after, **before}:
        section, _, name = key.partition(".")
        fixed = section in _FIXED and key not in _FREE
        if about.detects:
            fixed |= section == "evaluation" and name in _DETECTING
        if fixed and after.get(key) != before.get(key):
            raise ConfigError(f"{key} cannot change: it is fixed in {path}; export the checkpoint again with it")
    return cfg
