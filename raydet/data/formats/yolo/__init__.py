"""YOLO: data.yaml, label files."""
