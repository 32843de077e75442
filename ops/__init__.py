"""Operations that detectors need and torch lacks. Import it as `raydet.ops`; a bare `ops` would be a second copy.

One op is one file: what it means, how a CPU computes it, its gradient, and beside it, in the .cu file of the same name,
how a GPU does. Importing needs neither a GPU nor CuPy. `choose` says who computes: PyTorch or the kernels.
"""

from raydet.ops.assignment import Targets, assign_anchors
from raydet.ops.detection import BatchDetections, ImageDetections, detect
from raydet.ops.focal_loss import focal_loss
from raydet.ops.multi_tensor import ema_update, rmsprop_step
from raydet.ops.nms import batched_nms
from raydet.ops.raw import Backend, KernelError, choose

__all__ = [
    "Backend",
    "BatchDetections",
    "ImageDetections",
    "KernelError",
    "Targets",
    "assign_anchors",
    "batched_nms",
    "choose",
    "detect",
    "ema_update",
    "focal_loss",
    "rmsprop_step",
]
