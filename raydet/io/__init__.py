"""Files, JSON and time, for all the packages above."""
