"""The demo model's architecture with random weights."""

from tests.studio import studio

__all__ = ["studio"]
