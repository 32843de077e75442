"""Figures and images with boxes."""
