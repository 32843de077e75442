"""One image that belongs to no data set, as a batch of one: what prediction feeds the network."""

from pathlib import Path

import torch
from PIL import Image

from raydet.config import Config
from raydet.data.images.decode import HW
from raydet.data.images.resample import apply_to_image
from raydet.data.loading.batch import Batch
from raydet.data.loading.samples import eval_view, fill_colour, opened


def single(cfg: Config, path: Path, stated: HW | None = None) -> tuple[Batch, Image.Image]:
    """Return the image as evaluation shows it, letterboxed (detection) or its centre (classification), and as a whole.

    Args:
        stated: height and width that its annotations are for, if it has any; see data.exif.

    Raises:
        DataError: the file cannot be read.
    """
    with opened(cfg, path, stated) as image_file:
        view = eval_view(cfg, image_file.hw)
        image, _ = image_file.load()
        height, width = image_file.hw
    pixels_HW3 = apply_to_image(view, image, fill_colour(cfg), cfg.augment.interpolation)
    batch = Batch(
        images_B3HW=torch.from_numpy(pixels_HW3).permute(2, 0, 1).unsqueeze(0),
        rows_B=torch.zeros(1, dtype=torch.int64),
        seeds_B=torch.zeros(1, dtype=torch.int64),
        scale_B2=torch.tensor([view.scale], dtype=torch.float32),
        size_B2=torch.tensor([[width, height]]),
    )
    return batch, image
