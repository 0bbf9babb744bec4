"""What stands in a reference's file beside its tensors, as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any
from uuid import uuid4

from ..model.rows import Kind
from ..model.sites import Lineage, Site
from .codec import Representation
from .plan import Plan
from .reference import FORMAT_VERSION, GIVEN, RecordedCall, describe_lineage


def compose(lineage: Lineage, provenance: Mapping[str, Any], plan: Plan,
            kept_as: Mapping[str, Mapping[Site, Representation]], nbytes: int,
            calls: Mapping[str, Sequence[RecordedCall]],
            given: Mapping[str, Mapping[Kind, Sequence[int]]], name: str = "",
            sizes: Mapping[str, tuple[int, int]] | None = None,
            marked: Mapping[str, Any] | None = None, parts: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The manifest of what was recorded: how each pass's sites are kept, the calls, each call's conditioning, the
    height and width of each pass's latents, and what of each pass's picture is marked (a mask as plain JSON); of passes
    that were saved with a mask how much of the picture it is."""
    return {
        "format": FORMAT_VERSION, "name": name, "id": uuid4().hex,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **describe_lineage(lineage), **provenance,
        "kept": {**plan.manifest(kept_as), "bytes": nbytes,
                 **({"part": {each: round(share, 4) for each, share in parts.items()}} if parts else {})},
        "sizes": {each: list(size) for each, size in (sizes or {}).items()},
        "passes": {each: [list(call) for call in recorded] for each, recorded in calls.items()},
        **({"marked": dict(marked)} if marked else {}),
        GIVEN: {each: {str(kind): list(numbers) for kind, numbers in kinds.items()} for each, kinds in given.items()},
    }


def kept_as(manifest: Mapping[str, Any], pass_name: str) -> dict[Site, Representation]:
    """How each site of a pass is kept, as far as a manifest tells. One of an earlier version has no more than what the
    last pass was kept as."""
    found: dict[Site, Representation] = {}
    try:
        sites = manifest["kept"]["sites"]
        for words, names in sites.get(pass_name, sites).items():
            found |= dict.fromkeys(map(Site.parse, names), Representation.parse(words))
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    return found


def size_of(manifest: Mapping[str, Any], pass_name: str) -> tuple[int, int] | None:
    """Height and width of a pass's latents, where a manifest tells."""
    sizes = manifest.get("sizes")
    found = sizes.get(pass_name) if isinstance(sizes, Mapping) else None
    if not isinstance(found, list) or len(found) != 2 or not all(type(side) is int and side > 0 for side in found):
        return None
    return found[0], found[1]
