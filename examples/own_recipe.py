"""A recipe of your own: a function that returns a Config. Its name, in version control, is the run's identity.

python examples/own_recipe.py --data.root /data/tiles --data.train train.json --data.val val.json
"""

import sys

import raydet


def tiles_d1() -> raydet.Config:
    """D1 on aerial tiles: they have no upright, so little scale jitter, a frozen backbone, and a short schedule."""
    changes = {
        "data.class_ids": "contiguous",
        "model.num_classes": None,
        "model.freeze": ["backbone"],
        "augment.scale": (0.7, 1.4),
        "optim.lr": 0.02,
        "optim.lr_batch_size": 64,  # the rate follows the global batch, so it fits any number of workers
        "schedule.epochs": 30,
        "schedule.cooldown_epochs": 0,
        "ema.decay": 0.999,
        "run.name": "tiles_d1",
    }
    return raydet.override(raydet.recipe("efficientdet_d1_coco"), changes)


if __name__ == "__main__":
    result = raydet.fit(raydet.override(tiles_d1(), raydet.parse_overrides(sys.argv[1:])))
    print(f"AP {result.metrics['AP']:.3f}  run folder {result.dir}")
