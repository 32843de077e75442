"""The verb `raydet bench`: what a step, an operation or Ray costs, beside the peers, in turn in one process."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydet.exceptions import ConfigError

WHAT = ("step", "ops", "data", "gpu", "ray", "quantization")
"""A training step; raydet's operations; samples from file to batch; all on a GPU; what Ray adds to a step; INT8."""


def run(options: Any, changes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run the benchmark that the command line's `options` name; return its figures."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler else announces each of its starts
    if options.sources and options.what != "quantization":
        raise ConfigError(f"bench {options.what} takes no {options.sources[0]!r}; only bench quantization names models")
    if options.what == "quantization":
        from raydet.bench.quantization import bench_quantization
        from raydet.bench.quantization_report import lines

        folder = None if options.out is None else Path(options.out)
        how = {"qat": options.qat, "rounds": options.rounds, "out": folder}
        report = bench_quantization(options.sources, changes, **how, say=lambda line: print(line, file=sys.stderr))
        if not options.json:
            print("\n".join(lines(report)))
        return report if options.json else {}
    if options.what == "gpu":
        from raydet.bench.gpu import bench_gpu

        out = Path(options.out or "docs/benchmarks")
        return {"cases": len(bench_gpu(out, options.rounds)["steps"]), "out": str(out)}
    if options.what == "ops":
        from raydet.bench.ops import bench_ops, print_rows

        rows = bench_ops(options.device, options.only, options.rounds, compiled=options.compiled)
        if not options.json:
            print_rows(rows)
        return {"rows": rows} if options.json else {}
    if options.what == "data":
        from raydet.bench.data import bench_data, print_table

        found = bench_data(options.recipe, changes, options.rounds, options.images_per_s)
        if not options.json:
            print_table(found)
        return found if options.json else {}
    if options.what == "ray":
        from raydet.bench.ray import bench_ray

        return bench_ray("demo_classification", changes, options.rounds)
    from raydet.bench.step import bench_step

    extras = {name: bool(getattr(options, name)) for name in ("compiled", "keep_memory", "profile")}
    return bench_step(options.recipe, changes, options.vs, options.batch, options.rounds, **extras)
