"""Parquet tables with images in them."""
