"""Annotation formats, each read into an index of packed arrays."""
