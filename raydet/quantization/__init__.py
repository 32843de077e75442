"""INT8: fake-quantizers in raydet's models, their ranges found by calibration, trained on by `raydet.fit`.

`quantize` puts them in (`placement` says where), `calibrate` gives them ranges; the fake-quantizer itself is a
library's (`libraries`). Facts on both libraries: ../../docs/decisions/0011-quantization.md.
"""

from raydet.exceptions import CalibrationError, NotCalibratedError, QuantizationNotAvailable
from raydet.quantization.calibration import calibrate, check_calibrated, in_words, uncalibrated
from raydet.quantization.libraries import exporting
from raydet.quantization.placement import GROUPS, Placed, is_quantized, placements, quantize, quantizers

__all__ = [
    "GROUPS",
    "CalibrationError",
    "NotCalibratedError",
    "Placed",
    "QuantizationNotAvailable",
    "calibrate",
    "check_calibrated",
    "exporting",
    "in_words",
    "is_quantized",
    "placements",
    "quantize",
    "quantizers",
    "uncalibrated",
]
