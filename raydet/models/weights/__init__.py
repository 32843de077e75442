"""Weights of raydet, timm, effdet and NVIDIA, loaded into raydet's models."""

from raydet.models.weights.load import Report, load, resolve

__all__ = ["Report", "load", "resolve"]
