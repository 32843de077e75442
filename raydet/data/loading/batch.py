"""What a loader hands over: one micro-batch of images with their truth, on the host, in 8 bits."""

from dataclasses import dataclass, field, fields, replace

import torch


@dataclass(slots=True)
class Batch:
    """B images of one rank. uint8: normalising on the device moves a quarter of the bytes."""

    images_B3HW: torch.Tensor
    """uint8 RGB, channels_last in memory (that is how Pillow makes them; no copy)."""
    rows_B: torch.Tensor
    """int64, row of each image in the index."""
    seeds_B: torch.Tensor
    """int64 >= 0, a hash of (run.seed, epoch, row) for the network's own draws on this sample."""
    labels_B: torch.Tensor | None = None
    """Classification: int64 class."""
    boxes_BM4: torch.Tensor | None = None
    """Detection: float32 xyxy in input pixels, padded with zeros; M >= 1."""
    classes_BM: torch.Tensor | None = None
    """Detection: int64 class of each box, padded with -1."""
    scale_B2: torch.Tensor | None = None
    """Evaluation of detection: float32 input pixels per pixel of the file, along x and y."""
    size_B2: torch.Tensor | None = None
    """Evaluation of detection: int64 width and height of the file's image."""
    bad: dict[str, str] = field(default_factory=dict)
    """data.on_bad=skip: unreadable files met while making this batch, and why."""

    def __len__(self) -> int:
        return len(self.rows_B)

    def _tensors(self) -> dict[str, torch.Tensor]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Return the batch with its tensors on `device`."""
        return replace(self, **{n: t.to(device, non_blocking=non_blocking) for n, t in self._tensors().items()})  # type: ignore[arg-type]

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory, from where copies to a GPU overlap with its work."""
        return replace(self, **{name: t.pin_memory() for name, t in self._tensors().items()})  # type: ignore[arg-type]
