"""SD-RefDrop: consistent, or deliberately different, images by Reference Feature Guidance (arXiv 2405.17661)."""

__version__ = "0.1.0"
