"""One picture that belongs to no data set, as a batch of one: what prediction feeds the network."""

from pathlib import Path

import torch

from raydet.config import Config
from raydet.data import geometry as geo
from raydet.data.batch import Batch
from raydet.data.decode import open_picture
from raydet.data.samples import fill_colour, input_size


def single(cfg: Config, path: Path) -> Batch:
    """Return the picture as evaluation shows it: letterboxed (detection) or its centre (classification).

    Raises:
        DataError: the file cannot be read.
    """
    size = input_size(cfg)
    with open_picture(path, exif=cfg.data.exif, max_pixels=cfg.data.max_pixels) as picture:
        if cfg.task == "detection":
            view = geo.letterbox(picture.hw, size)
        else:
            view = geo.centre_crop(picture.hw, size, cfg.augment.eval_margin)
        image, _ = picture.load()
        height, width = picture.hw
    pixels_HW3 = geo.apply_to_image(view, image, fill_colour(cfg), cfg.augment.interpolation)
    return Batch(
        images_B3HW=torch.from_numpy(pixels_HW3).permute(2, 0, 1).unsqueeze(0),
        rows_B=torch.zeros(1, dtype=torch.int64),
        seeds_B=torch.zeros(1, dtype=torch.int64),
        scale_B2=torch.tensor([view.scale], dtype=torch.float32),
        size_B2=torch.tensor([[width, height]]),
    )
