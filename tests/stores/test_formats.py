"""Files that earlier versions wrote go on serving. Those in tests/files were written by the code before format 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_refdrop.model.rows import Kind
from lib_refdrop.stores import DiskStore

FILES = Path(__file__).resolve().parents[1] / "files"


@pytest.mark.parametrize("name", ["exact", "balanced", "tiny"])
def test_a_file_of_format_1_says_what_it_always_said(name) -> None:
    reference = DiskStore(FILES).load(f"format-1-{name}")
    record = reference.passes["base"]
    assert reference.manifest["format"] == 1 and reference.manifest["prompt"] == "a pirate arms up on grass"
    assert len(record.calls) == 2  # steps
    if name == "exact":
        assert record.kept == {Kind("cond"): {0, 1}, Kind("uncond"): {0, 1}}
    else:
        inputs = reference.inputs("base", 1, Kind("uncond"))
        assert inputs["x"].shape == (4, 8, 8) and inputs["context"].shape == (77, 128)
