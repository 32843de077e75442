"""Here the figures are the point."""

import pytest


@pytest.fixture
def labels_not_drawn() -> None:
    """They are drawn."""
