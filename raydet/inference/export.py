"""The verb `raydet export`: a trained model as one ONNX file, checked against PyTorch before it is written.

The file is whole or not there: it is built and checked in memory, then written beside its place and renamed.
"""

import math
import shlex
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

import torch

from raydet.config import Config, override
from raydet.data.loading.samples import input_size
from raydet.exceptions import ConfigError, ExportError
from raydet.inference.agreement import Agreement, Opened, compare
from raydet.inference.images import ImageSample, held_out, made_up, training_inputs
from raydet.inference.trained_model import TrainedModel, open_source
from raydet.io.files import replace_file
from raydet.onnx import metadata, onnx_model, postprocess, saturation, targets
from raydet.onnx.graph import CODES, INPUT, LOGITS
from raydet.quantization import is_quantized
from raydet.tasks.build import make_task
from raydet.tasks.detection import Detection
from raydet.training.state import build_model, resolve_model

if TYPE_CHECKING:
    import onnx

LEAST_ARGMAX = {"float": 0.99, "tensorrt": 0.99, "onnxruntime": 0.98}
"""Least share of images that get the same class from the file, of float and of quantized models."""
MOST_AP = 0.005
"""By how much the file's AP may differ."""
MOST_RMS = {"float": 0.01, "tensorrt": 0.3, "onnxruntime": 0.5}
"""Largest relative difference of the logits of made-up images, which have no right answer: a broken graph's is 1."""
_CPU = torch.device("cpu")
_MADE_UP = 512
"""Made-up images that the check looks at where that is asked for."""
_TRAIN = "calibrate otherwise or leave costly groups in FP32 (`raydet bench quantization`), or train on with QAT"
_REMEDIES = {"float": "and report it: a float file should not differ", "tensorrt": _TRAIN, "onnxruntime": _TRAIN}
_BATCHES = (1, 8, 32)
"""Least, usual and largest batch in the line for trtexec."""
_COMPUTING = (
    *("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "BatchNormalization", "Add", "Sum", "Mul"),
    *("Sigmoid", "QuickGelu", "Clip", "Relu", "GlobalAveragePool", "ReduceMean"),
)
"""What computes, in float, in a graph as ONNX Runtime has optimised it; the others move values or are INT8."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written, and how it compares."""

    path: Path
    target: str
    numbers: str
    """What it computes with, in words."""
    size_bytes: int
    float_bytes: int
    """Size of the same network's file in float32."""
    agreement: Agreement
    """Of the file as it is written: exact, whatever CPU runs it."""
    here: Agreement | None
    """Of the file as ONNX Runtime runs it on this CPU, its operators fused; None: nothing to tell apart."""
    checked_on: str
    """Which images, in words."""
    float_operators: dict[str, int] | None
    """Of an integer file for ONNX Runtime: operators that compute in float, and how many. None: of any other."""
    trtexec: str | None
    """The command that builds a TensorRT engine of it."""

    @property
    def ratio(self) -> float:
        """Size against that of the float file."""
        return self.size_bytes / self.float_bytes

    def figures(self) -> dict[str, Any]:
        """Return all of it under the names that are printed."""
        values: dict[str, Any] = {"file": str(self.path), "target": self.target, "megabytes": self.size_bytes / 1e6}
        values |= {"numbers": self.numbers, "ratio_to_float": self.ratio, "checked_on": self.checked_on}
        values |= _named(self.agreement)
        if self.here is not None:
            values |= {f"{name}_on_this_cpu": value for name, value in _named(self.here).items() if name != "AP_torch"}
        if self.float_operators is not None:
            values["float_operators"] = ", ".join(f"{n} {op}" for op, n in self.float_operators.items()) or "none"
        return values if self.trtexec is None else values | {"trtexec": self.trtexec}


def _named(agreement: Agreement) -> dict[str, float]:
    values = {} if agreement.argmax is None else {"argmax_agreement": agreement.argmax}
    if agreement.ap is not None:
        ours, theirs = agreement.ap
        values |= {"AP_torch": ours, "AP_file": theirs, "AP_difference": theirs - ours}
        values["AP_difference_by_chance"] = agreement.ap_chance
    return {**values, "relative_rms": agreement.rms}


def export(
    source: str | Path,
    out: str | Path,
    changes: Mapping[str, Any] | None = None,
    *,
    target: str = "onnxruntime",
    nms: bool = False,
    images: int | Literal["made-up"] = 512,
    stream: TextIO | None = None,
) -> ExportReport:
    """Write a trained model as an ONNX file; return what was written and how it compares with PyTorch.

    Args:
        source: a checkpoint, a run's folder (its best checkpoint), or a recipe whose model.weights say what to load;
            float or quantized.
        out: the file, *.onnx. One that is there is replaced.
        changes: dotted configuration keys.
        target: tensorrt (symmetric Q/DQ) or onnxruntime (INT8 for CPUs); of a float model both give one graph.
        nms: detect within the graph; its one output is then `raydet.onnx.postprocess.DETECTIONS`.
        images: how many images of the validation split the check looks at. made-up: 512 images of coloured clouds; no
            data set is looked at, so none need be there.
        stream: where progress is shown. None: standard error.

    Raises:
        ConfigError: a name, place, key or value that cannot be used. CheckpointError: a damaged checkpoint.
        ExportError: the file would not answer as the model does; nothing is written.
    """
    changes, path, stream = changes or {}, Path(out), stream or sys.stderr
    _check_arguments(Path(source), path, target, images)
    onnx_model.require_onnx("raydet export")
    trained = open_source(source, changes)
    trained = replace(trained, cfg=metadata.portable(resolve_model(trained.cfg)))
    _check_model(trained.cfg, target, nms)
    named = any(key.partition(".")[0] == "data" for key in changes)
    with _sample(trained.cfg, images, named) as sample:
        if sample.index is not None:
            trained.check_classes(sample.index)
        print(f"export    tracing {trained.cfg.model.name}", file=stream, flush=True)
        data = None if images == "made-up" else named
        made = _made(trained, metadata_of(trained, target, str(source)), path, nms=nms, data=data)
        print(f"export    comparing on {sample.what}", file=stream, flush=True)
        task = make_task(trained.cfg, trained.model, _CPU)
        agreement, *here = compare(trained.model, made.opened, task, sample.index, sample.batches)
    limits = target if is_quantized(trained.model) else "float"
    check_agreement(agreement, limits, path)
    _write(path, made.data)
    if here:
        _warn_of_cpu(here[0], limits, path, made.data)
    trtexec = _trtexec(path, trained.cfg) if target == "tensorrt" else None
    return ExportReport(
        path=path,
        target=target,
        numbers=_numbers(trained.cfg),
        size_bytes=len(made.data),
        float_bytes=made.float_bytes,
        agreement=agreement,
        here=here[0] if here else None,
        checked_on=sample.what,
        float_operators=made.float_operators,
        trtexec=trtexec,
    )


def _numbers(cfg: Config) -> str:
    if cfg.quantization is None:
        return "FP32 (a quantized run, or --quantization.bits 8, gives INT8)"
    skipped = ", ".join(cfg.quantization.skip)
    return f"INT8; in FP32: {skipped}" if skipped else "INT8"


def _sample(cfg: Config, images: int | Literal["made-up"], named: bool) -> ImageSample:
    if images == "made-up":
        return ImageSample(None, made_up(cfg, _MADE_UP), f"{_MADE_UP} made-up images")
    return held_out(cfg, images, needed=named)


def _check_arguments(source: Path, path: Path, target: str, images: int | Literal["made-up"]) -> None:
    metadata.check_target(target)
    if images != "made-up" and images < 1:
        raise ConfigError(f"images must be at least 1, got {images}")
    if source.suffix == onnx_model.SUFFIX:
        raise ConfigError(f"{source} is an exported file already; name the checkpoint that it was made from")
    if path.suffix != onnx_model.SUFFIX:
        raise ConfigError(f"the file to write must end with {onnx_model.SUFFIX}, got {path}")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file")
    if not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be written: there is no folder {path.parent}")
    try:
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {path.parent}: {error.strerror}") from None


def _check_model(cfg: Config, target: str, nms: bool) -> None:
    if not nms:
        return
    if cfg.task != "detection":
        raise ConfigError(f"--nms is for detectors; {cfg.model.name} is a classifier")
    postprocess.check_can_detect(cfg.evaluation, target)


@dataclass(frozen=True, slots=True)
class _Made:
    """A file that is not written yet."""

    data: bytes
    opened: list[Opened]
    """As it is to be judged; a second time as this CPU runs it, where that may differ."""
    float_bytes: int
    float_operators: dict[str, int] | None


def _made(trained: TrainedModel, about: metadata.Metadata, path: Path, *, nms: bool, data: bool | None) -> _Made:
    """Build the file; `data`: whether the training data must be there, None: they are not looked at."""
    cfg, int8 = trained.cfg, about.target == "onnxruntime" and is_quantized(trained.model)
    task = make_task(cfg, trained.model, _CPU)
    inputs = training_inputs(cfg, task, needed=data) if int8 and data is not None else ()
    proto = _built(trained.model, cfg, about.target, inputs)
    float_operators = _float_operators(proto) if int8 else None
    content = _file(proto, about)
    float_bytes = _float_bytes(trained, about.target, len(content))
    network = content
    if nms:
        anchors_A4 = cast("Detection", task).anchors_A4
        postprocess.append_detect(proto, anchors_A4, len(about.class_names), cfg.evaluation)
        content = _file(proto, replace(about, outputs=(postprocess.DETECTIONS,)))
        float_bytes += len(content) - len(network)
    # What the file says, and what this CPU's INT8 kernels make of it.
    opened = [
        _opened(network, content if nms else None, path, unfused=unfused)
        for unfused in ((True, False) if int8 else (False,))
    ]
    return _Made(content, opened, float_bytes, float_operators)


def _opened(network: bytes, detecting: bytes | None, path: Path, *, unfused: bool) -> Opened:
    """Return the file as its readers have it, read back as one."""

    def model(data: bytes) -> onnx_model.OnnxModel:
        return onnx_model.OnnxModel(data, onnx_model.parse(data, path), path, unfused=unfused).eval()

    return Opened(model(network), None if detecting is None else model(detecting))


def _built(model: torch.nn.Module, cfg: Config, target: str, batches: Any = ()) -> "onnx.ModelProto":
    side = input_size(cfg)
    runtime = cast("targets.Target", target)
    made: onnx.ModelProto = targets.build(model, torch.zeros(2, 3, side, side), target=runtime, batches=batches)
    return made


def metadata_of(trained: TrainedModel, target: str, source: str) -> metadata.Metadata:
    """Return what the file of the network, without detection in it, says of itself."""
    model: Any = trained.model
    detector = trained.cfg.task == "detection"
    return metadata.Metadata(
        cfg=trained.cfg,
        class_names=trained.class_names,
        category_ids=trained.category_ids,
        target=target,
        outputs=(LOGITS, CODES) if detector else (LOGITS,),
        anchors=metadata.Anchors(model.min_level, model.max_level, model.anchor_scale) if detector else None,
        source=source if trained.path is None else str(trained.path),
    )


def _file(proto: "onnx.ModelProto", about: metadata.Metadata) -> bytes:
    metadata.write(proto, about)
    return bytes(proto.SerializeToString())


def _float_operators(proto: "onnx.ModelProto") -> dict[str, int]:
    return {op: count for op, count in targets.operators(proto).items() if op in _COMPUTING}


def _float_bytes(trained: TrainedModel, target: str, size: int) -> int:
    """Return how long the float file of the same network is."""
    if not is_quantized(trained.model):
        return size
    twin = build_model(override(trained.cfg, {"quantization": None}), len(trained.class_names))
    weights = trained.model.state_dict()
    twin.load_state_dict({name: weights[name] for name in twin.state_dict()})
    return int(_built(twin.eval(), trained.cfg, target).ByteSize())


def check_agreement(agreement: Agreement, limits: str, path: Path) -> None:
    """Raise ExportError unless the file answers as the model does.

    Args:
        limits: a key of LEAST_ARGMAX: what the file is.
        path: for the message.
    """
    difference = _too_far(agreement, limits)
    if difference is not None:
        judged = math.isfinite(agreement.rms) and not agreement.made_up
        remedy = f". Look at more images (--images), {_REMEDIES[limits]}" if judged else ""
        raise ExportError(f"{difference} on {agreement.images} images; {path} was not written{remedy}")


def _too_far(agreement: Agreement, limits: str) -> str | None:
    """Return in words how far beyond the limits two models' answers differ; None: they agree."""
    if not math.isfinite(agreement.rms):
        return "the logits of the file or of the model are not finite"
    if agreement.made_up:
        most = MOST_RMS[limits]
        return f"the logits differ by {agreement.rms:.1%} (rms), more than {most:.0%}" if agreement.rms > most else None
    least = LEAST_ARGMAX[limits]
    expected = (1 - least) * agreement.images
    # The images are a sample: their number that differs has a standard deviation of about its root.
    if agreement.argmax is not None and (agreement.differing or 0) > expected + math.sqrt(expected):
        return f"argmax agreement {100 * agreement.argmax:.1f} % < {100 * least:.0f} %"
    if agreement.ap is not None and abs(agreement.ap[0] - agreement.ap[1]) > MOST_AP + agreement.ap_chance:
        ours, theirs = agreement.ap
        off = f"more than {MOST_AP} off (and {agreement.ap_chance:.4f} of chance)"
        return f"AP is {theirs:.4f} instead of {ours:.4f}, {off}"
    return None


def _warn_of_cpu(here: Agreement, limits: str, path: Path, data: bytes) -> None:
    """Warn where this CPU does not compute what the file, whose bytes are `data`, says."""
    from onnx import ModelProto

    difference = _too_far(here, limits)
    if difference is None:
        return
    why = "ONNX Runtime's fused kernels differ; try another version of onnxruntime, and report it"
    layers = saturation.saturating_layers(ModelProto.FromString(data))
    if layers:
        why = f"sums of uint8 x int8 products saturate in {len(layers)} layers; run it on a CPU with VNNI"
    warnings.warn(f"{path} is right, but not as this CPU runs it: {difference}. {why}", RuntimeWarning, stacklevel=3)


def _trtexec(path: Path, cfg: Config) -> str:
    side = input_size(cfg)
    names = zip(("min", "opt", "max"), _BATCHES, strict=True)
    shapes = [f"--{name}Shapes={INPUT}:{batch}x3x{side}x{side}" for name, batch in names]
    kinds = ["--fp16"] if cfg.quantization is None else ["--int8", "--fp16"]
    engine = path.with_suffix(".engine")
    return shlex.join(["trtexec", f"--onnx={path}", f"--saveEngine={engine}", *kinds, *shapes])


def _write(path: Path, data: bytes) -> None:
    try:
        replace_file(path, data, 0o666)  # to be handed on, unlike the files of a run
    except OSError as error:
        what = f"{error.strerror}; {len(data) / 1e6:.1f} MB are to be written"
        raise OSError(error.errno, what, str(path)) from error
