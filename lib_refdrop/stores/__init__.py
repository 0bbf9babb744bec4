"""Where references live. Every store has the same small interface and knows nothing of what a tensor means."""

from .disk import DiskStore
from .interface import Saved, Store
from .memory import MemoryStore

__all__ = ["DiskStore", "MemoryStore", "Saved", "Store"]
