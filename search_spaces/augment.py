"""How training images are varied, and how sure of itself the network is asked to be."""

from typing import TYPE_CHECKING

from raydet.config import Config
from raydet.search_spaces.ranges import flat_range, options

if TYPE_CHECKING:
    from ray.tune.search.sample import Domain


def space(cfg: Config) -> "dict[str, Domain]":
    """Colours for both tasks; then what the task has. Flips are not searched: the data decide (a digit has no mirror).

    augment.color_jitter: 0 to 0.4, the strength of timm's train.py; the references have none.

    Classification:
    augment.autoaugment: off, or ImageNet's policy as documented for B0 and B4.
    augment.mixup: 0 to 0.4, alpha's range in the paper (arXiv:1710.09412, section 3.1); documented 0.2.
    augment.crop_area: random crops of 8 % of the image and more (documented, arXiv:1409.4842), then less and less
    scale jitter, by steps of ours.
    loss.label_smoothing: 0 to 0.2; documented 0.1 (arXiv:1512.00567).

    Detection:
    augment.scale: 0.1 to 2 (documented, arXiv:1911.09070), 0.5 to 2 and 0.8 to 1.25 (arXiv:2012.07177 has 0.8 to 1.25
    as its standard jitter and 0.1 to 2 as its large one), and one between them.
    loss.label_smoothing: 0 (documented) to 0.1 (effdet's default).
    """
    own = cfg.augment
    domains = {"augment.color_jitter": flat_range(0.0, 0.4, own.color_jitter)}
    if cfg.task == "detection":
        domains["augment.scale"] = options(own.scale, (0.1, 2.0), (0.5, 2.0), (0.5, 1.5), (0.8, 1.25))
        domains["loss.label_smoothing"] = flat_range(0.0, 0.1, cfg.loss.label_smoothing)
        return domains
    domains["augment.autoaugment"] = options(own.autoaugment, None, "imagenet")
    domains["augment.mixup"] = flat_range(0.0, 0.4, own.mixup)
    domains["augment.crop_area"] = options(own.crop_area, (0.08, 1.0), (0.25, 1.0), (0.5, 1.0), (0.7, 1.0))
    domains["loss.label_smoothing"] = flat_range(0.0, 0.2, cfg.loss.label_smoothing)
    return domains
