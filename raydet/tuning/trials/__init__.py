"""One trial: a `fit` under Ray Tune, its folder, its row."""
