"""The sites of the models that people use, as the adapters find them."""

from lib_refdrop.model.sites import Lineage, Site, SiteShape


def _stack(section, blocks, layers, heads, width, level):
    return {Site(section, block, index): SiteShape(heads, width, level) for block in blocks for index in range(layers)}


SDXL = Lineage({
    **_stack("input", (4, 5), 2, 10, 640, 1), **_stack("input", (7, 8), 10, 20, 1280, 2),
    **_stack("middle", (0,), 10, 20, 1280, 2),
    **_stack("output", (0, 1, 2), 10, 20, 1280, 2), **_stack("output", (3, 4, 5), 2, 10, 640, 1)})

SD15 = Lineage({
    **_stack("input", (1, 2), 1, 8, 320, 0), **_stack("input", (4, 5), 1, 8, 640, 1),
    **_stack("input", (7, 8), 1, 8, 1280, 2), **_stack("middle", (0,), 1, 8, 1280, 3),
    **_stack("output", (3, 4, 5), 1, 8, 1280, 2), **_stack("output", (6, 7, 8), 1, 8, 640, 1),
    **_stack("output", (9, 10, 11), 1, 8, 320, 0)})

DEMO = Lineage({
    **_stack("input", (1, 2), 1, 4, 64, 0), **_stack("input", (4, 5), 1, 4, 128, 1),
    **_stack("middle", (0,), 1, 4, 128, 1),
    **_stack("output", (0, 1, 2), 1, 4, 128, 1), **_stack("output", (3, 4, 5), 1, 4, 64, 0)})
