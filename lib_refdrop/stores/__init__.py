"""Where references live. Every store has the same small interface and knows nothing of what a tensor means."""

from .budget import MemoryBudget
from .disk import DiskStore
from .files import FileStore
from .interface import LimitReached, Saved, Store, Writer
from .memory import MemoryStore
from .shared import SharedStore, open_store

__all__ = ["DiskStore", "FileStore", "LimitReached", "MemoryBudget", "MemoryStore", "Saved", "SharedStore", "Store",
           "Writer", "open_store"]
