"""`raydet bench quantization`: what integers cost in accuracy, group by group, and gain in size and speed.

Floats, integers without training (PTQ) and with it (QAT), in PyTorch and in ONNX Runtime on this CPU, all timed in turn
on one thread; what each of ONNX Runtime's operators takes says what limits the rest. A model's name instead of a
checkpoint gives size and speed only: its weights are random, its BatchNorms have seen some batches.
"""

import copy
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raydet import models
from raydet.bench.quantization_report import lines
from raydet.bench.timing import Times, in_turn, machine
from raydet.config import Config, ConfigError, Quantization, override
from raydet.data.samples import input_size
from raydet.deploy import metadata, session
from raydet.deploy.pictures import held_out, training_inputs
from raydet.deploy.targets import build
from raydet.evaluation import score
from raydet.peers import Peers
from raydet.ptq import post_training
from raydet.quantization import calibrate, quantize
from raydet.restore import Source, open_source
from raydet.sensitivity import Sensitivity, open_floats, sensitivity
from raydet.sinks import make_folder
from raydet.tasks import make_task, score_name

BATCHES = (1, 32)
_RELU6 = "+relu6"


@dataclass
class Variant:
    """One network in floats or integers."""

    name: str
    model: nn.Module
    cfg: Config
    source: Source | None
    """None: untrained."""

    @property
    def integers(self) -> bool:
        return self.cfg.quantization is not None


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
    """Return what integers cost and gain: `rows`, `profiles` and, of a checkpoint, `sensitivity`.

    Args:
        sources: a float checkpoint or run folder; or names of models, whose first is what the others are compared with,
            with `+relu6` behind those that are to have that activation.
        changes: dotted configuration keys; `quantization.*` say how is calibrated.
        qat: the checkpoint or run that training in integers from the first gave.
        rounds: how often each is timed.
        images: held-out pictures to score on.
        out: folder for sensitivity.png, quantization.md and quantization.json; None: nothing is written.
        say: is told what is being done.

    Raises:
        ConfigError: something that cannot be used. DataError: the data.
    """
    session.require_onnx("raydet bench quantization")
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
        say(f"scoring each group of layers of {sources[0]} in integers")
        variants = _trained(sources[0], changes, qat)
        found = sensitivity(sources[0], changes, images=images)
    else:
        raise ConfigError(f"{sources[names.index(False)]} is no model's name; give one checkpoint, or models only")
    report: dict[str, Any] = {"of": ", ".join([*sources, *([qat] if qat else [])])}
    report |= {"machine": machine(torch.device("cpu")), "versions": _versions(), "rounds": rounds}
    report |= _compare(variants, rounds, images, say)
    if found is not None:
        report["sensitivity"] = asdict(found)
    if out is not None:
        make_folder(out)
        _write(out, report, found)
    return report


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("raydet", "torch", "onnxruntime"))


def _trained(source: str, changes: Mapping[str, Any], qat: str | None) -> list[Variant]:
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
    floats = replace(ptq, cfg=override(ptq.cfg, {"quantization": None}), model=copy.deepcopy(ptq.model))
    assert ptq.cfg.quantization is not None
    quantize(ptq.model, ptq.cfg.quantization)
    post_training(ptq.cfg, ptq.model)
    named = {"float": floats, "PTQ": ptq, "QAT": trained}
    return [Variant(name, one.model, one.cfg, one) for name, one in named.items() if one is not None]


def _untrained(name: str) -> list[Variant]:
    """Return a model in floats and in integers, with BatchNorm statistics that fit its weights."""
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
    integers, how = copy.deepcopy(floats), Quantization(calibration="max", batches=1)
    quantize(integers, how)
    calibrate(integers, [images_B3HW], how)
    quantized = override(cfg, {"quantization.calibration": "max"})
    return [Variant(f"{name} float", floats, cfg, None), Variant(f"{name} int8", integers, quantized, None)]


def _format_for(name: str) -> dict[str, str]:
    return {} if models.is_detector(name) else {"data.format": "folder"}


def _compare(variants: Sequence[Variant], rounds: int, images: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the rows of the table and what each operator of ONNX Runtime takes."""
    rows: list[dict[str, Any]] = []
    sides: dict[str, Callable[[Tensor], object]] = {}
    profiles: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for variant in variants:
            for runtime in ("torch", "onnxruntime", "tensorrt") if variant.integers else ("torch", "onnxruntime"):
                key = f"{variant.name} {runtime}"
                say(f"making and scoring {key}")
                model, size = _made(variant, runtime, Path(folder) / f"{len(rows)}.onnx")
                rows.append({"variant": variant.name, "runtime": runtime, "megabytes": size / 1e6})
                rows[-1] |= _scored(variant, model, images)
                if runtime != "tensorrt":  # its file runs on ONNX Runtime, slower than floats: not what it is for
                    sides[key] = model
                if runtime == "onnxruntime":
                    data = (Path(folder) / f"{len(rows) - 1}.onnx").read_bytes()
                    profiles |= {f"{key}, batch {n}": profile(data, _images(variant.cfg, n)) for n in BATCHES}
        say(f"timing {len(sides)} sides in turn, {rounds} rounds, batches of {' and '.join(map(str, BATCHES))}")
        _note_times(rows, sides, variants, rounds)
    return {"rows": rows, "profiles": profiles}


def _made(variant: Variant, runtime: str, path: Path) -> tuple[nn.Module, int]:
    """Return the network behind a runtime, and the bytes of its weights or file."""
    if runtime == "torch":
        return variant.model, sum(p.numel() * p.element_size() for p in variant.model.parameters())
    cfg = variant.cfg
    task = make_task(cfg, variant.model, torch.device("cpu"))
    batches = () if variant.source is None else training_inputs(cfg, task, needed=True)
    proto = build(variant.model, _images(cfg, 2), target=runtime, batches=batches)  # type: ignore[arg-type]
    path.write_bytes(proto.SerializeToString())
    return _Session(path.read_bytes()), path.stat().st_size


class _Session(nn.Module):
    """A graph on ONNX Runtime with as many threads as torch has."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._session = session.open_session(data, Path("graph.onnx"))

    def forward(self, images_B3HW: Tensor) -> Any:
        arrays = self._session.run(None, {metadata.INPUT: images_B3HW.contiguous().numpy()})
        made = [torch.from_numpy(array) for array in arrays]
        return made[0] if len(made) == 1 else tuple(made)


def _scored(variant: Variant, model: nn.Module, images: int) -> dict[str, float]:
    source, cfg = variant.source, variant.cfg
    if source is None:
        return {}
    with held_out(cfg, images, needed=True) as pictures:
        task = make_task(cfg, variant.model, torch.device("cpu"))
        found = score(model, task, pictures.index, pictures.batches, cfg, Peers())
    return {score_name(cfg): found[score_name(cfg)]}


def _images(cfg: Config, count: int) -> Tensor:
    side = input_size(cfg)
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(count))


def _note_times(
    rows: list[dict[str, Any]],
    sides: Mapping[str, Callable[[Tensor], object]],
    variants: Sequence[Variant],
    rounds: int,
) -> None:
    """Time every side at every batch, in turn, and write images per second and the ratio to floats into its row."""
    cfgs = {variant.name: variant.cfg for variant in variants}
    first = f"{variants[0].name} onnxruntime"
    for batch in BATCHES:
        calls = {}
        for key, call in sides.items():
            images_B3HW = _images(cfgs[key.rpartition(" ")[0]], batch)
            calls[key] = _call(call, images_B3HW)
        times: dict[str, Times] = in_turn(calls, torch.device("cpu"), rounds, warm_up=1)
        for row in rows:
            taken = times.get(f"{row['variant']} {row['runtime']}")
            if taken is not None:
                row[f"images_per_s_{batch}"] = batch / taken.median
                row[f"speedup_{batch}"] = times[first].median / taken.median


def _call(call: Callable[[Tensor], object], images_B3HW: Tensor) -> Callable[[], object]:
    def work() -> object:
        with torch.inference_mode():
            return call(images_B3HW)

    return work


def profile(data: bytes, images_B3HW: Tensor, runs: int = 5) -> dict[str, float]:
    """Return what share of the time each of ONNX Runtime's operators takes in a graph, the largest first."""
    with tempfile.TemporaryDirectory() as folder:
        opened = session.open_session(data, Path("graph.onnx"), profile=str(Path(folder) / "profile"))
        for _ in range(runs + 1):
            opened.run(None, {metadata.INPUT: images_B3HW.numpy()})
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
        from raydet.charts import sensitivity_figure

        sensitivity_figure(folder / "sensitivity.png", found.floats["eval_loss"], found.alone, found.integers)
