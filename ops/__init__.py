"""Operations that detectors need and torch lacks. Import it as `raydet.ops`; a bare `ops` would be a second copy.

One op is one file: what it means, how it is computed here, its gradient. Importing needs no GPU.
"""

from raydet.ops.focal_loss import focal_loss

__all__ = ["focal_loss"]
