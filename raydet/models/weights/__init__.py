"""Weights of raydet, timm, effdet, torchvision, efficientnet_pytorch and NVIDIA, loaded into raydet's models."""

from raydet.models.weights import files
from raydet.models.weights.load import LoadReport, holds_detector, load, resolve, traits
from raydet.models.weights.traits import traits_of

__all__ = ["LoadReport", "files", "holds_detector", "load", "resolve", "traits", "traits_of"]
