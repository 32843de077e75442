"""`raydet bench quantization`: what INT8 costs in accuracy, group by group, and gains in size and speed.

FP32, INT8 without training (PTQ) and with it (QAT), in PyTorch and in ONNX Runtime on this CPU, all timed in turn
on one thread; what each of ONNX Runtime's operators takes says what limits the rest. A model's name instead of a
checkpoint gives size and speed only: its weights are random, its BatchNorms have seen some batches.
"""

import copy
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from raydet import models
from raydet.bench.quantization_report import lines
from raydet.bench.sensitivity import Sensitivity, open_floats, sensitivity_of
from raydet.bench.timing import in_turn, machine
from raydet.config import Config, Quantization, override
from raydet.data.loading.samples import input_size
from raydet.distributed import WorkerGroup
from raydet.exceptions import ConfigError
from raydet.inference.images import held_out, training_inputs
from raydet.inference.trained_model import open_source
from raydet.io.files import make_folder
from raydet.onnx import onnx_model, saturation
from raydet.onnx.graph import INPUT
from raydet.onnx.targets import Target, build
from raydet.quantization import calibrate, quantize
from raydet.tasks.build import make_task, score_name
from raydet.training.scoring import score

BATCHES = (1, 32)
Runtime = Literal["torch", "onnxruntime full range"] | Target
_RUNTIMES: tuple[Runtime, ...] = ("torch", "onnxruntime", "onnxruntime full range", "tensorrt")
"""The last two of INT8 only; full range: the weights as they were trained, which only CPUs with VNNI compute right."""
_RELU6 = "+relu6"


@dataclass
class BenchVariant:
    """One network in FP32 or INT8."""

    name: str
    model: nn.Module
    cfg: Config
    trained: bool = True


@dataclass
class Side:
    """A variant behind a runtime."""

    variant: BenchVariant
    runtime: Runtime
    model: nn.Module
    file: bytes
    """Empty: it is in PyTorch."""
    row: dict[str, Any]
    """What the table says of it."""

    @property
    def name(self) -> str:
        """What it is called where it is timed."""
        return f"{self.variant.name} {self.runtime}"


def bench_quantization(
    sources: Sequence[str],
    changes: Mapping[str, Any],
    *,
    qat: str | None = None,
    rounds: int = 5,
    images: int = 256,
    out: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Return what INT8 costs and gains: `rows`, `profiles` and, of a checkpoint, `sensitivity`.

    Args:
        sources: a float checkpoint or run folder; or names of models, whose first is what the others are compared with,
            with `+relu6` behind those that are to have that activation.
        changes: dotted configuration keys; `quantization.*` say how is calibrated.
        qat: the checkpoint or run that quantization-aware training from the first gave.
        rounds: how often each is timed.
        images: held-out images to score on.
        out: folder for sensitivity.png, quantization.md and quantization.json; None: nothing is written.
        say: called with what is being done.

    Raises:
        ConfigError: something that cannot be used. DataError: the data.
    """
    onnx_model.require_onnx("raydet bench quantization")
    if not sources:
        raise ConfigError("name a float checkpoint, a run's folder, or models, e.g. efficientnet_b0 efficientnet_lite0")
    if rounds < 1:
        raise ConfigError(f"--rounds must be at least 1, got {rounds}")
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; name a folder")
    torch.set_num_threads(1)
    names = [name.removesuffix(_RELU6) in models.MODELS for name in sources]
    if all(names):
        variants, found = [v for name in sources for v in _untrained(name)], None
    elif len(sources) == 1:
        say(f"scoring each group of layers of {sources[0]} in INT8")
        variants, found = _trained(sources[0], changes, qat, images)
    else:
        raise ConfigError(f"{sources[names.index(False)]} is no model's name; give one checkpoint, or models only")
    report: dict[str, Any] = {"of": ", ".join([*sources, *([qat] if qat else [])])}
    report |= {"machine": machine(torch.device("cpu")), "instructions": _instructions()}
    report |= {"versions": _versions(), "rounds": rounds}
    report |= _compare(variants, rounds, images, say)
    if found is not None:
        report["sensitivity"] = asdict(found)
    if out is not None:
        make_folder(out)
        _write(out, report, found)
    return report


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("raydet", "torch", "onnxruntime"))


def _instructions() -> str:
    saturate = "saturate without VNNI" if saturation.saturates() else "are exact"
    return f"{', '.join(saturation.cpu_features())}; sums of uint8 x int8 products {saturate}"


def _trained(
    source: str, changes: Mapping[str, Any], qat: str | None, images: int
) -> tuple[list[BenchVariant], Sensitivity]:
    ptq = open_floats(source, changes)
    own = {key: value for key, value in changes.items() if key.partition(".")[0] != "quantization"}
    trained = None if qat is None else open_source(qat, own)
    if trained is not None and (
        trained.cfg.quantization is None or trained.cfg.model.name != ptq.cfg.model.name or trained.path is None
    ):
        raise ConfigError(f"--qat {qat} must be a quantized run of {ptq.cfg.model.name}, the model of {source}")
    for of in (ptq, trained):
        how = None if of is None else of.cfg.quantization
        if how is not None and how.bits != 8:
            raise ConfigError(f"quantization.bits={how.bits} cannot be compared: files have 8 bits")
    floats = BenchVariant("float", copy.deepcopy(ptq.model), override(ptq.cfg, {"quantization": None}))
    found = sensitivity_of(ptq, images)
    variants = [floats, BenchVariant("PTQ", ptq.model, ptq.cfg)]
    return variants + ([] if trained is None else [BenchVariant("QAT", trained.model, trained.cfg)]), found


def _untrained(name: str) -> list[BenchVariant]:
    """Return a model in FP32 and in INT8, with BatchNorm statistics that fit its weights."""
    plain = name.removesuffix(_RELU6)
    act = "relu6" if name != plain else None
    side = min(models.default_image_size(plain), 512)
    cfg = override(Config(), {"model.name": plain, "model.image_size": side, **_format_for(plain)})
    torch.manual_seed(0)
    model = models.build(plain, act=act).train()
    generator = torch.Generator().manual_seed(0)
    images_B3HW = torch.randn(8, 3, side, side, generator=generator)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = None
        model(images_B3HW)
    floats = model.eval()
    quantized, how = copy.deepcopy(floats), Quantization(calibration="max", batches=1)
    quantize(quantized, how)
    calibrate(quantized, [images_B3HW], how)
    int8_cfg = override(cfg, {"quantization.calibration": "max"})
    return [BenchVariant(f"{name} float", floats, cfg, False), BenchVariant(f"{name} int8", quantized, int8_cfg, False)]


def _format_for(name: str) -> dict[str, str]:
    return {} if models.is_detector(name) else {"data.format": "folder"}


def _compare(variants: Sequence[BenchVariant], rounds: int, images: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the rows of the table and what each operator of ONNX Runtime takes."""
    sides = []
    for variant in variants:
        for runtime in _RUNTIMES if variant.cfg.quantization is not None else _RUNTIMES[:2]:
            say(f"making and scoring {variant.name} {runtime}")
            sides.append(_side(variant, runtime, images))
    profiles = {
        f"{side.name}, batch {n}": profile(side.file, _images(side.variant.cfg, n))
        for side in sides
        if side.runtime == "onnxruntime"
        for n in BATCHES
    }
    # TensorRT's file runs on ONNX Runtime, slower than floats: not what it is for.
    timed = [side for side in sides if side.runtime != "tensorrt"]
    say(f"timing {len(timed)} sides in turn, {rounds} rounds, batches of {' and '.join(map(str, BATCHES))}")
    _note_times(timed, rounds)
    return {"rows": [side.row for side in sides], "profiles": profiles}


def _side(variant: BenchVariant, runtime: Runtime, images: int) -> Side:
    """Return the network behind a runtime, with its size and score noted."""
    cfg, model, file = variant.cfg, variant.model, b""
    task = make_task(cfg, model, torch.device("cpu"))
    if runtime == "torch":
        size = sum(p.numel() * p.element_size() for p in model.parameters())
    else:
        batches = training_inputs(cfg, task, needed=True) if variant.trained else ()
        target: Target = "tensorrt" if runtime == "tensorrt" else "onnxruntime"
        full_range = runtime == "onnxruntime full range"
        proto = build(model, _images(cfg, 2), target=target, batches=batches, full_range=full_range)
        file = proto.SerializeToString()
        model, size = onnx_model.OnnxGraph(file, Path("graph.onnx")), len(file)
    row: dict[str, Any] = {"variant": variant.name, "runtime": runtime, "megabytes": size / 1e6}
    if file and runtime != "tensorrt":
        row["saturating_layers"] = len(saturation.saturating_layers(proto))
        row["rms_to_exact"] = _error(file, model, cfg)
    if variant.trained:
        with held_out(cfg, images, needed=True) as sample:
            found = score(model, task, sample.index, sample.batches, cfg, WorkerGroup())
        row[score_name(cfg)] = found[score_name(cfg)]
    return Side(variant, runtime, model, file, row)


@torch.no_grad()
def _error(file: bytes, model: nn.Module, cfg: Config) -> float:
    """Return how far this CPU is from what the file says: relative rms difference of the output that is furthest.

    Values that lie between two levels are rounded either way, and the next layers carry that on: some percent are none.
    """
    images_B3HW = _images(cfg, 8)
    exact = onnx_model.OnnxGraph(file, Path("graph.onnx"), unfused=True)(images_B3HW)
    found = model(images_B3HW)
    pairs = zip(found, exact, strict=True) if isinstance(exact, tuple) else [(found, exact)]
    return max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs)


def _images(cfg: Config, count: int) -> Tensor:
    side = input_size(cfg)
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(count))


def _note_times(sides: Sequence[Side], rounds: int) -> None:
    """Time every side at every batch, in turn, and write images per second and the ratio to floats into its row."""
    floats = next(side for side in sides if side.runtime == "onnxruntime")
    for batch in BATCHES:
        calls = {side.name: _call(side.model, _images(side.variant.cfg, batch)) for side in sides}
        times = in_turn(calls, torch.device("cpu"), rounds, warm_up=1)
        for side in sides:
            taken = times[side.name].median
            side.row[f"images_per_s_{batch}"] = batch / taken
            side.row[f"speedup_{batch}"] = times[floats.name].median / taken


def _call(call: Callable[[Tensor], object], images_B3HW: Tensor) -> Callable[[], object]:
    def work() -> object:
        with torch.inference_mode():
            return call(images_B3HW)

    return work


def profile(data: bytes, images_B3HW: Tensor, runs: int = 5) -> dict[str, float]:
    """Return what share of the time each of ONNX Runtime's operators takes in a graph, the largest first."""
    with tempfile.TemporaryDirectory() as folder:
        opened = onnx_model.open_session(data, Path("graph.onnx"), profile=str(Path(folder) / "profile"))
        for _ in range(runs + 1):
            opened.run(None, {INPUT: images_B3HW.numpy()})
        events = json.loads(Path(opened.end_profiling()).read_text())
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    spent: Counter[str] = Counter()
    for event in kernels[len(kernels) // (runs + 1) :]:  # the first run allocates
        spent[event["args"]["op_name"]] += event["dur"]
    return {op: duration / max(1, spent.total()) for op, duration in spent.most_common()}


def _write(folder: Path, report: Mapping[str, Any], found: Sensitivity | None) -> None:
    (folder / "quantization.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "quantization.md").write_text("\n".join(lines(report)) + "\n")
    if found is not None:
        from raydet.visualization.charts import sensitivity_figure

        sensitivity_figure(folder / "sensitivity.png", found.floats["eval_loss"], found.alone, found.int8)
