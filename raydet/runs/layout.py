"""Names of the files and folders within a run's folder."""

CHECKPOINTS = "checkpoints"
"""Name of the folder of checkpoints within a run's folder."""
