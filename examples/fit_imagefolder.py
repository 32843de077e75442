"""Train EfficientNet-B0 on a folder of folders: root/train/<class>/*.jpg and root/val/<class>/*.jpg.

python examples/fit_imagefolder.py /data/flowers --model.weights timm:efficientnet_b0
"""

import argparse

import raydet

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("root", help="folder with train and val")
options, settings = parser.parse_known_args()

cfg = raydet.recipe("efficientnet_b0_imagenet")
cfg = raydet.override(
    cfg,
    {
        "data.root": options.root,
        "model.num_classes": None,
        # The recipe's 0.08 is for 4096 images a step and 1.2 million images; small sets want small steps.
        "data.batch_size": 32,
        "optim.batch_size": 32,
        "optim.lr": 0.002,
        "schedule.epochs": 20,
        "schedule.warmup_epochs": 1.0,
        "run.name": "fit_imagefolder",
    },
)
cfg = raydet.override(cfg, raydet.parse_overrides(settings))

result = raydet.fit(cfg)
print(f"top-1 {result.metrics['top1']:.3f}  top-5 {result.metrics['top5']:.3f}  best checkpoint {result.best}")
