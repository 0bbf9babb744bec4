"""Features reach the model's device before they are needed, and no layer waits for them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lib_refdrop.model.rows import Kind
from lib_refdrop.references.on_device import Ahead
from lib_refdrop.references.plan import RECIPES
from lib_refdrop.references.reference import Key
from lib_refdrop.techniques.reference.guidance import Guidance
from lib_refdrop.techniques.sampling_pass import SamplingPass

COND = Kind("cond")


def test_without_cuda_features_are_handed_out_as_they_are_kept(studio):
    reference, _ = studio.record()
    site = next(iter(studio.lineage.sites))
    key = Key("base", 1, site, COND)
    ahead = Ahead(reference, torch.device("cpu"))
    assert ahead.take(key)["h"] is reference.feature(key)["h"]
    assert ahead.take(key._replace(call=99)) is None


class _NoWaiting(SamplingPass):
    """A pass in whose layers waiting for the GPU is an error."""

    def attention(self, *args):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return super().attention(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA here")
@pytest.mark.parametrize("name", ["Exact", "Balanced", "Small"])
def test_on_cuda_the_picture_is_the_same_and_no_layer_waits(studio, name):
    plan = replace(RECIPES[name].plan(name, studio.lineage), trajectory=False)
    reference, _ = studio.record(plan=plan, steps=10)
    expected, _ = studio.use(reference, 0.4, seed=3, steps=10)
    studio.pipeline.to("cuda")
    try:
        sampling_pass = _NoWaiting([Guidance([(reference, 0.4)], studio.lineage)])
        made = studio.draw(sampling_pass, seed=3, steps=10).cpu()
        assert sampling_pass.finish()[0].acted == 10
    finally:
        studio.pipeline.to("cpu")
    assert torch.allclose(made, expected, atol=0.02 * float(expected.abs().max()))
