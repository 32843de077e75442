"""YAML as plain data; what test_yolo.py shows of it through data.yaml is not repeated here."""

import pytest

from raydet.data.formats.yolo.safe_yaml import parse_yaml
from raydet.exceptions import DataError


def test_bombs_of_brackets_cost_no_time() -> None:
    for text in (b"[" * 900_000, b"{a: " * 200_000, b"- " * 500_000):
        with pytest.raises(DataError, match="more than 20 levels"):
            parse_yaml(text, "data.yaml")


def test_plain_values_are_what_people_mean() -> None:
    values = parse_yaml(b"a: [1, 1.5, x, ~, '1', 12:30, 2001-01-01, yes, -0.5]\n1: {b: []}", "f")
    assert values == {"a": [1, 1.5, "x", None, "1", "12:30", "2001-01-01", True, -0.5], "1": {"b": []}}
