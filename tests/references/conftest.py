"""The demo model's architecture with random weights, to record with."""

from tests.studio import studio

__all__ = ["studio"]
