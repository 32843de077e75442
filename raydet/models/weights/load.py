"""Loading weights into a model: our checkpoints, timm's, effdet's and NVIDIA's files, each all or nothing.

`load` finds out by the names in the file whose it is (`weight_maps`), checks every name and shape against the model,
and copies only then. A different number of classes re-initializes the last layer; any other difference is an error that
names the model the file would fit. Ranges of fake-quantizers go by rules of their own (`weight_ranges`).
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from raydet.exceptions import CheckpointMismatch, WeightsError
from raydet.models import efficientdet, efficientnet, efficientnet_variants
from raydet.models.efficientdet import EfficientDet
from raydet.models.efficientnet import Backbone, EfficientNet
from raydet.models.weights import quantizer_ranges
from raydet.models.weights.files import WeightFile, read, resolve
from raydet.models.weights.key_maps import HEAD, SOURCES, Kind, Mapped, family, finite, not_read, to_our_names
from raydet.models.weights.traits import Traits, traits_of
from raydet.models.weights.widths import fitting_names

__all__ = ["CheckpointMismatch", "LoadReport", "WeightsError", "load", "resolve", "traits"]

Model = EfficientNet | EfficientDet


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport:
    """What `load` did. Each entry is (key, shape or reason)."""

    source: str
    """Whose file it is: one of `weight_maps.SOURCES`."""
    path: Path
    loaded: tuple[tuple[str, str], ...]
    ranges: int
    """Fake-quantizers whose ranges were loaded."""
    skipped: tuple[tuple[str, str], ...]
    """In the file, with no place in the model."""
    reinitialised: tuple[tuple[str, str], ...]
    """In the model, re-initialized because the classes differ in number."""
    untouched: tuple[tuple[str, str], ...]
    """In the model, not in the file, as expected: the head when only a backbone was loaded."""
    notes: tuple[str, ...]
    """What the user should know, e.g. that the weights were trained with another BN eps."""

    def __str__(self) -> str:
        ranges = f" and {self.ranges} ranges" if self.ranges else ""
        lines = [f"{len(self.loaded)} tensors{ranges} loaded from {self.path} ({self.source})"]
        for title in ("reinitialised", "skipped", "untouched"):
            entries = getattr(self, title)
            if entries:
                shown = ", ".join(f"{key} {why}" for key, why in entries[:3])
                more = f", and {len(entries) - 3} more" if len(entries) > 3 else ""
                lines.append(f"  {title:13} {len(entries):5}  {shown}{more}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def load(
    model: Model,
    path: str | Path,
    *,
    num_classes_may_differ: bool = True,
    ema: bool = True,
    backbone_only: bool = False,
    source: str | None = None,
    pick: Callable[[list[Path]], Path] | None = None,
) -> LoadReport:
    """Copy the weights at `path` into `model` and return what was done; on an error the model is as it was.

    A quantized model takes the file's ranges too, where it has any; ranges that it has not are NaN afterwards.

    Args:
        model: as `raydet.models.build` returns it, on any device.
        path: what `resolve` takes; also a checkpoint's or a run's folder.
        num_classes_may_differ: re-initialize the last layer where the file has another number of classes, and take a
            file without one; into a detector, a classifier's backbone.
        ema: take the averaged weights where the file has any.
        backbone_only: take the stem and the blocks alone, from a detector or a classifier.
        source: whose file it is, one of `weight_maps.SOURCES`; None finds out. Needed only for a detector in a
            safetensors file that lies outside a checkpoint's folder: effdet's and ours differ in nothing but the order
            of the box codes.
        pick: chooses among a run's checkpoint folders, given from the oldest to the newest; None takes the newest.

    Raises:
        WeightsError: missing, truncated, holding code, or not fitting the model. CheckpointMismatch: ranges that are
            not those of the model's fake-quantizers.
    """
    file = read(resolve(path), ema=ema, pick=pick)
    mapped = _mapped(model, file, source)
    wants = traits_of(file, mapped.source)
    _check_padding(model, file, wants)
    state = model.state_dict()
    # Where the head may be new, a file without one serves.
    headless = num_classes_may_differ and isinstance(model, EfficientNet) and mapped.kind == "backbone"
    if num_classes_may_differ and isinstance(model, EfficientDet) and mapped.kind != "detector":
        backbone_only = True
    places, untouched = _wanted(model, state, backbone_only, mapped.tensors if headless else None)
    wanted, ranged = quantizer_ranges.split(places)
    mapped = mapped if headless else _for_model(model, mapped, file.path, backbone_only)
    redrawn = _differing_heads(model, mapped.tensors, wanted) if num_classes_may_differ else {}
    given = _without(mapped.tensors, redrawn)
    _check_fit(model, file.path, _without(wanted, redrawn), given)
    fresh = quantizer_ranges.of_weights(redrawn)
    ranges = quantizer_ranges.check(file.path, _without(ranged, fresh), _without(mapped.ranges, fresh))
    with torch.no_grad():
        for key, value in given.items():
            state[key].copy_(value)
    quantizer_ranges.put(ranged, ranges)
    if redrawn:
        _redraw_heads(model)
    return LoadReport(
        source=mapped.source,
        path=file.path,
        loaded=tuple((key, _shape(value)) for key, value in given.items()),
        ranges=len(ranges),
        skipped=(
            *mapped.skipped,
            *(() if ranged else ((key, "quantizer") for key in mapped.ranges)),
            *((key, "beside the network") for key in file.beside),
        ),
        reinitialised=tuple(redrawn.items()),
        untouched=tuple((key, _shape(state[key])) for key in untouched),
        notes=tuple(_notes(model, mapped, wants)),
    )


def traits(path: str | Path) -> Traits:
    """Return what the weights at `path` want of the network and its input, as far as the file says; see `load`."""
    file = read(resolve(path), ema=True)
    found = _origin(file)
    return Traits() if found is None else traits_of(file, found[0])


def holds_detector(path: str | Path) -> bool:
    """Whether the weights at `path` are of a whole detector, not of a backbone; False where that cannot be told."""
    try:
        found = _origin(read(resolve(path), ema=True))
    except WeightsError:
        return False
    return found is not None and found[1] == "detector"


def _origin(file: WeightFile) -> tuple[str, Kind] | None:
    """Return the program that wrote the file and what it holds; None where its names are unknown."""
    found = family(file.tensors)
    if found is not None and file.own and found[0] in ("timm", "effdet"):  # whose names ours are
        return "raydet", found[1]
    return found


def _mapped(model: Model, file: WeightFile, source: str | None) -> Mapped:
    if source is not None and source not in SOURCES:
        raise WeightsError(f"source must be one of {', '.join(SOURCES)}, got {source!r}")
    found = _origin(file)
    if found is None:
        known = not_read(file.tensors)
        if known is not None:
            raise WeightsError(f"{file.path} is by the names of {known}; raydet does not read these names")
        first = ", ".join(list(file.tensors)[:3])
        raise WeightsError(
            f"{file.path} holds no EfficientNet or EfficientDet that raydet knows; its first keys: {first}"
        )
    program, kind = found
    if source is None and kind == "detector" and program == "effdet" and file.path.suffix == ".safetensors":
        raise WeightsError(
            f"{file.path} does not say whether its boxes are coded raydet's way or effdet's; "
            "set model.weights_source to raydet or effdet, or give the checkpoint's folder"
        )
    depths = efficientnet_variants.stage_depths(_backbone(model).variant)
    levels = model.max_level - model.min_level + 1 if isinstance(model, EfficientDet) else 0
    return to_our_names(file.tensors, source or program, kind, depths, levels, model.num_classes)


def _backbone(model: Model) -> Backbone:
    return model.backbone if isinstance(model, EfficientDet) else model


def _check_padding(model: Model, file: WeightFile, traits: Traits) -> None:
    """Refuse TensorFlow's weights in a network that pads as PyTorch does and the reverse: no shape would show it."""
    ours = _backbone(model).padding
    if traits.padding is None or traits.padding == ours:
        return
    name = model.name
    right = name.removeprefix("tf_") if ours == "same" else f"tf_{name}"
    how = {"same": "pads SAME, as TensorFlow does", "symmetric": "pads symmetrically"}[traits.padding]
    raise WeightsError(
        f"{file.path}: the network it is of {how}, unlike {name} here; set model.name={right} or "
        f"model.padding={traits.padding}, or give weights of the other kind"
    )


def _wanted(
    model: Model, state: dict[str, Tensor], backbone_only: bool, headless: dict[str, Tensor] | None
) -> tuple[dict[str, Tensor], list[str]]:
    """Return what the file has to provide, and what of the model it has not.

    Args:
        headless: tensors of a classifier without its last layer, of whose head the rest may be there.
    """
    if headless is not None and not backbone_only:
        wanted = {key: x for key, x in state.items() if not HEAD.match(key) or key in headless}
        return wanted, [key for key in state if key not in wanted]
    if not backbone_only:
        return state, []
    if isinstance(model, EfficientDet):
        wanted = {key: x for key, x in state.items() if key.startswith("backbone.")}
    else:
        wanted = {key: x for key, x in state.items() if not HEAD.match(key)}
    return wanted, [key for key in state if key not in wanted]


def _without(tensors: dict[str, Tensor], keys: Collection[str]) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if key not in keys}


def _for_model(model: Model, mapped: Mapped, path: Path, backbone_only: bool) -> Mapped:
    """Return the file's tensors by the model's names; what is left out joins `skipped`."""
    is_detector = isinstance(model, EfficientDet)
    if not backbone_only:
        if mapped.kind != ("detector" if is_detector else "classifier"):
            what = "detector" if is_detector else "classifier"
            as_backbone = "load it as model.backbone_weights (backbone_only=True)"
            remedy = as_backbone if is_detector else "give a classifier's weights"
            raise WeightsError(f"{path} holds a {mapped.kind} and the model is a {what}; {remedy}")
        return mapped
    prefix = "backbone." if mapped.kind == "detector" else ""

    def part(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        inner = {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}
        return {f"backbone.{key}" if is_detector else key: x for key, x in inner.items() if not HEAD.match(key)}

    rest = [
        key for key in (*mapped.tensors, *mapped.ranges) if not key.startswith(prefix) or HEAD.match(key[len(prefix) :])
    ]
    skipped = (*mapped.skipped, *((key, "no part of the backbone") for key in rest))
    return replace(mapped, tensors=part(mapped.tensors), ranges=part(mapped.ranges), skipped=skipped)


def _head_keys(model: Model) -> tuple[tuple[str, ...], int]:
    """Return the keys whose first dimension goes with the classes, and how many rows a class has."""
    if isinstance(model, EfficientDet):
        anchors = len(model.aspect_ratios) * model.num_scales
        return ("class_net.predict.conv_pw.weight", "class_net.predict.conv_pw.bias"), anchors
    return ("classifier.weight", "classifier.bias"), 1


def _differing_heads(model: Model, given: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, str]:
    """Return the keys that differ in nothing but the number of classes, with the reason; both or none."""
    keys, rows = _head_keys(model)
    if not all(key in given and key in wanted for key in keys):
        return {}
    theirs = given[keys[0]].shape[0]
    fits = all(given[k].shape[1:] == wanted[k].shape[1:] and given[k].shape[0] == theirs for k in keys)
    if not fits or theirs % rows or theirs == wanted[keys[0]].shape[0]:
        return {}
    return dict.fromkeys(keys, f"{theirs // rows} classes in the file, {model.num_classes} in the model")


def _redraw_heads(model: Model) -> None:
    if isinstance(model, EfficientDet):
        efficientdet.init_fan_in(model.class_net.predict.conv_pw)
        efficientdet.init_class_bias(model.class_net)
    else:
        efficientnet.init_classifier(model.classifier)


def _check_fit(model: Model, path: Path, wanted: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    # Files of old PyTorch versions lack the counters, which nothing here uses.
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    unknown = [key for key in given if key not in wanted]
    shapes = [key for key in given if key in wanted and given[key].shape != wanted[key].shape]
    if not missing and not unknown and not shapes:
        bad = finite(given)
        if bad is not None:
            raise WeightsError(f"{path}: {bad} holds a NaN or an infinity")
        return
    faults = [
        f"{len(keys)} {what} ({_first(keys)})" for what, keys in (("missing", missing), ("unknown", unknown)) if keys
    ]
    if shapes:
        key = shapes[0]
        faults.append(f"{len(shapes)} of another shape ({key}: {_shape(given[key])}, model {_shape(wanted[key])})")
    fitting = fitting_names(given)
    cause = f"; the file fits {', '.join(fitting)}" if fitting else ""
    raise WeightsError(f"{path} does not fit {model.name}: {', '.join(faults)}{cause}")


def _notes(model: Model, mapped: Mapped, traits: Traits) -> Iterator[str]:
    """Yield what no shape shows: ranges that are missing, another eps than the weights were trained with."""
    ranges = quantizer_ranges.note(quantizer_ranges.split(model.state_dict())[1], mapped.ranges)
    if ranges is not None:
        yield ranges
    ours = _backbone(model).norm.eps
    if traits.bn_eps not in (None, ours):
        yield f"the weights were trained with model.bn_eps={traits.bn_eps:g}, the model has {ours:g}"


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
