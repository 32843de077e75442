"""Train EfficientDet-D0 on a data set with COCO annotations, from pretrained weights if you have some.

    python examples/fit_coco.py /data/shop train.json val.json --model.weights efficientdet_d0.pth

The class count comes from the data. Any setting can be added as on the command line of `raydet fit`.
"""

import argparse

import raydet

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("root", help="folder of the data set")
parser.add_argument("train", help="annotations of the training split, under root")
parser.add_argument("val", help="annotations of the validation split, under root")
options, settings = parser.parse_known_args()

cfg = raydet.recipe("efficientdet_d0_coco")
cfg = raydet.override(
    cfg,
    {
        "data.root": options.root,
        "data.train": options.train,
        "data.val": options.val,
        "data.class_ids": "contiguous",  # any ids, any gaps; the map to them is kept in the checkpoint
        "model.num_classes": None,  # as many as the annotations have
        "schedule.epochs": 50,
        "schedule.cooldown_epochs": 0,
        "run.checkpoint_epochs": 1,
        "run.name": "fit_coco",
    },
)
cfg = raydet.override(cfg, raydet.parse_overrides(settings))

result = raydet.fit(cfg)
print(f"AP {result.metrics['AP']:.3f}  AP50 {result.metrics['AP50']:.3f}  best checkpoint {result.best}")
