"""Search over a recipe's documented defaults, on Ray Tune: `raydet.tune` and what it leaves behind."""
