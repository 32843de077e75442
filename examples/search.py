"""Search learning rate and weight decay, and train the best found once more under a name of its own.

python examples/search.py demo_classification --num-samples 12

The same command again continues a search that was interrupted, or returns at once from one that is finished.
"""

import argparse

import raydet

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("recipe")
parser.add_argument("--space", default="lr_wd")
parser.add_argument("--num-samples", type=int, default=12)
options, settings = parser.parse_known_args()
cfg = raydet.override(raydet.recipe(options.recipe), raydet.parse_overrides(settings))

found = raydet.tune(cfg, space=options.space, num_samples=options.num_samples)
print(found.trials.sort_values("score", ascending=False).head(5).to_string(index=False))
print(f"best: trial {found.best.number}, {found.metrics}, with {found.best.params}")

result = raydet.fit(found.config)
print(f"trained once more: {result.metrics} in {result.dir}")
