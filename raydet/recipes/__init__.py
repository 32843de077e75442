"""Named, complete runs. Each recipe is a function that returns a Config; its docstring says where the values stand.

Sources: the model cards and scripts of NVIDIA/DeepLearningExamples at 729963d, PyTorch/Detection/Efficientdet (DET) and
PyTorch/Classification/ConvNets (CLS). Where card and script differ, the card's value is the recipe's and the script has
a recipe of its own. Two things differ on purpose: activations are channels-last everywhere but in the script's recipe
(same numbers, faster), and the last epoch is always saved and scored.
"""

from collections.abc import Callable
from functools import partial

from raydet.config import Config, nearest, override
from raydet.exceptions import ConfigError
from raydet.recipes.coco import efficientdet_coco, efficientdet_d0_coco_8x150, efficientdet_d0_waymo
from raydet.recipes.demo import demo_classification, demo_detection
from raydet.recipes.imagenet import efficientnet_imagenet
from raydet.recipes.own_data import CLASSIFIERS, DETECTORS, own_classifier, own_detector
from raydet.recipes.qat import demo_classification_qat, demo_detection_qat, efficientdet_qat, efficientnet_qat

__all__ = ["RECIPES", "recipe"]

_KINDS = ("efficientnet", "efficientnet_widese")
_SIZES = ("d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d7x")

RECIPES: dict[str, Callable[[], Config]] = {
    **{model: partial(own_detector, model) for model in DETECTORS},
    **{model: partial(own_classifier, model) for model in CLASSIFIERS},
    **{
        f"{model}_imagenet": partial(efficientnet_imagenet, model)
        for kind in _KINDS
        for model in (f"{kind}_b{i}" for i in range(8))
    },
    **{f"{kind}_{size}_qat": partial(efficientnet_qat, f"{kind}_{size}") for kind in _KINDS for size in ("b0", "b4")},
    **{f"efficientdet_{d}_coco": partial(efficientdet_coco, f"efficientdet_{d}") for d in _SIZES},
    **{f"efficientdet_{d}_qat": partial(efficientdet_qat, f"efficientdet_{d}") for d in _SIZES},
    "efficientdet_d0_coco_8x150": efficientdet_d0_coco_8x150,
    "efficientdet_d0_waymo": efficientdet_d0_waymo,
    "demo_classification": demo_classification,
    "demo_detection": demo_detection,
    "demo_classification_qat": demo_classification_qat,
    "demo_detection_qat": demo_detection_qat,
}


def recipe(name: str) -> Config:
    """Return the complete Config of that name.

    Raises:
        ConfigError: no such recipe; names the nearest ones.
    """
    if name not in RECIPES:
        close = nearest(name, RECIPES)
        hint = f"did you mean {' or '.join(close)}?" if close else "`raydet fit --help` lists them"
        raise ConfigError(f"no recipe {name!r}; {hint}")
    cfg = override(RECIPES[name](), {"recipe": name})
    return cfg if cfg.run.name != "run" else override(cfg, {"run.name": name})
