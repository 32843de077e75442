"""What only detectors have: the focal loss, the weight of the boxes, the anchors, the suppression."""

from typing import TYPE_CHECKING

from raydet.config import Config
from raydet.exceptions import ConfigError
from raydet.search_spaces.ranges import flat_range, log_range, options

if TYPE_CHECKING:
    from ray.tune.search.sample import Domain


def fits(cfg: Config) -> None:
    """Raise ConfigError unless the configuration trains a detector."""
    if cfg.task != "detection":
        raise ConfigError(f"space detector needs a detector, and model.name={cfg.model.name} is a classifier")


def space(cfg: Config) -> "dict[str, Domain]":
    """Loss, boxes, anchors, suppression.

    loss.gamma: log-uniform, 0.5 to 5, where RetinaNet was found robust (arXiv:1708.02002, section 4); documented 1.5.
    loss.alpha: 0.1 to 0.75. 0.25 is documented, 0.25 to 0.75 is best there for one gamma or another (table 1b), below
    is ours.
    loss.box_weight: log-uniform, five times down and up of the configuration's (documented 50); no reference varies it.
    model.anchor_scale: the variant's (none), or another of 2 to 6: documented are 4, of D7 5, of the lite variants 3
    (raydet.models), 2 and 6 are ours. It decides which boxes are learnt; `raydet check` tells.
    evaluation.nms_iou: 0.3 to 0.7; documented 0.5. The range is ours.
    evaluation.soft_nms_sigma: off (documented), 0.5 (effdet, arXiv:1704.04503), 0.3 (ours). nms_iou is not used with
    it. These two change no training: on a trained net `raydet evaluate` tells as much, and sooner.
    """
    from raydet.models import MODELS

    loss, scoring = cfg.loss, cfg.evaluation
    own_scale = getattr(MODELS[cfg.model.name], "anchor_scale", None)
    scales = [scale for scale in (2.0, 3.0, 4.0, 5.0, 6.0) if scale != own_scale]
    weight = loss.box_weight or 50.0
    return {
        "loss.alpha": flat_range(0.1, 0.75, loss.alpha),
        "loss.gamma": log_range(0.5, 5.0, loss.gamma),
        "loss.box_weight": log_range(weight / 5, weight * 5, loss.box_weight),
        "model.anchor_scale": options(cfg.model.anchor_scale, None, *scales),
        "evaluation.nms_iou": flat_range(0.3, 0.7, scoring.nms_iou),
        "evaluation.soft_nms_sigma": options(scoring.soft_nms_sigma, None, 0.3, 0.5),
    }
