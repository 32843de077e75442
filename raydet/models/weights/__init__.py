"""Weights of raydet, timm, effdet and NVIDIA, loaded into raydet's models."""

from raydet.models.weights.load import LoadReport, load, resolve

__all__ = ["LoadReport", "load", "resolve"]
