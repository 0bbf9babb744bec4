"""Memory that a GPU fetches from by itself, while the processor goes on."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

_log = logging.getLogger(__name__)


def pinned(tensor: Tensor) -> Tensor:
    """A tensor on the CPU, in page-locked memory where there is CUDA; itself where there is none, or no room."""
    if not torch.cuda.is_available() or tensor.is_pinned():
        return tensor
    try:
        return tensor.pin_memory()
    except RuntimeError as error:
        _log.warning("RefDrop keeps a reference in ordinary memory, pinning failed: %s", str(error).splitlines()[0])
        return tensor
