"""The verb `raydet bench`: what a step, an operation or Ray costs, beside the peers, in turn in one process."""

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from raydet.exceptions import ConfigError

Figures = Mapping[str, Any]
_say = partial(print, file=sys.stderr, flush=True)


def run(options: Any, changes: Mapping[str, Any]) -> Figures:
    """Run the benchmark that the command line's `options` name; return its figures, those that it has not printed."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler else announces each of its starts
    if options.sources and options.what not in ("quantization", "own-data"):
        raise ConfigError(f"bench {options.what} takes no {options.sources[0]!r}; only bench quantization names models")
    return _BENCHMARKS[options.what](options, changes)


def _step(options: Any, changes: Mapping[str, Any]) -> Figures:
    from raydet.bench.step import bench_step

    extras = {name: bool(getattr(options, name)) for name in ("compiled", "keep_memory", "profile")}
    return bench_step(options.recipe, changes, options.vs, options.batch, options.rounds, **extras)


def _ops(options: Any, changes: Mapping[str, Any]) -> Figures:
    from raydet.bench.ops import bench_ops, print_rows

    rows = bench_ops(options.device, options.only, options.rounds, compiled=options.compiled)
    if options.json:
        return {"rows": rows}
    print_rows(rows)
    return {}


def _data(options: Any, changes: Mapping[str, Any]) -> Figures:
    from raydet.bench.data import bench_data, print_table

    found = bench_data(options.recipe, changes, options.rounds, options.images_per_s)
    if options.json:
        return found
    print_table(found)
    return {}


def _gpu(options: Any, changes: Mapping[str, Any]) -> Figures:
    from raydet.bench.gpu import bench_gpu

    out = Path(options.out or "docs/benchmarks")
    return {"cases": len(bench_gpu(out, options.rounds)["steps"]), "out": str(out)}


def _ray(options: Any, changes: Mapping[str, Any]) -> Figures:
    from raydet.bench.ray import bench_ray

    return bench_ray("demo_classification", changes, options.rounds)


def _quantization(options: Any, changes: Mapping[str, Any]) -> Figures:
    from raydet.bench.quantization import bench_quantization
    from raydet.bench.quantization_report import lines

    how = {"qat": options.qat, "rounds": options.rounds, "out": _folder(options)}
    return _shown(options, bench_quantization(options.sources, changes, **how, say=_say), lines)


def _own_data(options: Any, changes: Mapping[str, Any]) -> Figures:
    from raydet.bench.own_data import SIDES, bench_own_data, lines
    from raydet.recipes.own_data import OWN_DATA

    if len(options.sources) != 1:
        raise ConfigError("bench own-data takes one data set: raydet bench own-data PATH --model.weights FILE")
    model = options.recipe if options.recipe in OWN_DATA else "efficientdet_lite0"
    sides = tuple(options.only or SIDES)
    if not set(sides) <= set(SIDES):
        raise ConfigError(f"--only must be some of {', '.join(SIDES)}, got {', '.join(sides)}")
    report = bench_own_data(options.sources[0], model, changes, options.rounds, _folder(options), sides, _say)
    return _shown(options, report, lines)


def _folder(options: Any) -> Path | None:
    return None if options.out is None else Path(options.out)


def _shown(options: Any, report: Figures, lines: Callable[[Figures], list[str]]) -> Figures:
    if options.json:
        return report
    print("\n".join(lines(report)))
    return {}


_BENCHMARKS: Mapping[str, Callable[[Any, Mapping[str, Any]], Figures]] = {
    "step": _step,
    "ops": _ops,
    "data": _data,
    "gpu": _gpu,
    "ray": _ray,
    "quantization": _quantization,
    "own-data": _own_data,
}
"""A training step; raydet's operations; samples from file to batch; all on a GPU; what Ray adds to a step; INT8; `fit`
on a data set of one's own."""
WHAT = tuple(_BENCHMARKS)
