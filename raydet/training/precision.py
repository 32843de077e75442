"""What numbers a device computes with."""

from contextlib import AbstractContextManager, nullcontext

import torch

from raydet import ops
from raydet.config import Config, Precision
from raydet.exceptions import ConfigError


def autocast(cfg: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Return the context in which the network runs: bf16 or fp16 autocast, or none."""
    if cfg.mode in ("fp32", "tf32"):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if cfg.mode == "bf16" else torch.float16)


def prepare_device(cfg: Config, device: torch.device | None = None) -> torch.device:
    """Set torch up for `cfg` and return the device to use: `device`, or the one that scaling.use_gpu asks for.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    ops.choose(cfg.precision.ops)
    if device is None:
        device = torch.device("cuda" if cfg.scaling.use_gpu else "cpu")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError("scaling.use_gpu=true, but torch finds no CUDA GPU on this machine")
        # torch's convolutions use TF32 by default; fp32 must mean fp32.
        allowed = cfg.precision.mode != "fp32"
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed
        torch.backends.cudnn.benchmark = True  # all shapes of a run are the same
    return device
