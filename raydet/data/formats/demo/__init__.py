"""The demo's data sets, made on the spot."""
