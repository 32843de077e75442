"""All settings of a run, in one tree of frozen dataclasses. Imports the standard library only.

A field's default is written once, here; the string under it is its documentation and the command line's help text.
`None` means "off" or "derived", as the field's text says. A documented run is a function in `raydet.recipes`.
"""

from raydet.config.data import Augment, Data, Model
from raydet.config.near_keys import nearest
from raydet.config.overrides import as_flat, differences, field_type, from_dict, load, override, to_dict
from raydet.config.run import Evaluation, Run, Scaling
from raydet.config.training import Ema, Loss, Optim, Precision, Quantization, Schedule
from raydet.config.tree import Config
from raydet.exceptions import ConfigError

__all__ = [
    "Augment",
    "Config",
    "ConfigError",
    "Data",
    "Ema",
    "Evaluation",
    "Loss",
    "Model",
    "Optim",
    "Precision",
    "Quantization",
    "Run",
    "Scaling",
    "Schedule",
    "as_flat",
    "differences",
    "field_type",
    "from_dict",
    "load",
    "nearest",
    "override",
    "to_dict",
]
