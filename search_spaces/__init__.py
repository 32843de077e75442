"""Search spaces: one file each, `space() -> {"optim.lr": tune.loguniform(...)}`. Imported as `raydet.search_spaces`."""
