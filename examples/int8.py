"""From a float run to a checked file in INT8: calibrate first, train on only if that is not enough.

python examples/int8.py runs/demo_classification demo_classification_qat int8.onnx
"""

import argparse

import raydet

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("floats", help="a trained run's folder or a checkpoint")
parser.add_argument("recipe", help="one that ends with _qat")
parser.add_argument("out", help="the file to write, *.onnx")
options, settings = parser.parse_known_args()
changes = raydet.parse_overrides(settings)

ways = [{"quantization.calibration": "max"}, {"quantization.percentile": 99.9}, {"quantization.percentile": 99.99}]
best = raydet.rank_calibrations(options.floats, ways)[0]
print(f"without training: {dict(best.changes)} gives {best.metrics}")

cfg = raydet.override(raydet.recipe(options.recipe), {"model.weights": options.floats, **best.changes, **changes})
result = raydet.fit(cfg)
report = raydet.export(result.best, options.out)
print(f"{report.size_bytes / 1e6:.2f} MB, {report.ratio:.2f} of the float file: {raydet.evaluate(options.out)}")
