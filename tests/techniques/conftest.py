"""The demo model's architecture with random weights, as tests of the core have it."""

from tests.core.conftest import studio

__all__ = ["studio"]
