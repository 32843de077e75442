"""A run's folder: its lock, checkpoints, logs and result. One module for each thing that a user sees in it."""
