"""Layers that look at the prompt: told of in every host as they compute, and only where somebody asks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from lib_refdrop.hosts import find_adapter
from lib_refdrop.model.rows import COND
from lib_refdrop.model.sites import Site
from lib_refdrop.techniques.sampling_pass import SamplingPass
from lib_refdrop.techniques.technique import Outcome, Technique

from .conftest import watched
from .tiny import HEADS, Block, SelfAttention, UNet, a1111, forge, sample_a1111, sample_forge

ASKED = Site("output", 0, 0)


class LooksAtPrompt(Block):
    """A block with a layer behind its self-attention that looks at the prompt, of which it remembers its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.attn2, self.context, self.given = SelfAttention(), torch.empty(0), []

    def forward(self, x: Tensor, options: dict) -> Tensor:
        x = super().forward(x, options)
        self.given.append((x, self.context))
        return x + self.attn2(x, self.context)


class WithPrompt(UNet):
    def __init__(self) -> None:
        super().__init__()
        for part in (self.input_blocks[1], self.middle_block, self.output_blocks[0]):
            part[1].transformer_blocks[0] = LooksAtPrompt()

    def layers(self, x: Tensor, timesteps: Tensor, context: Tensor, transformer_options: dict | None = None) -> Tensor:
        for block in self.blocks:
            block.context = context
        return super().layers(x, timesteps, context, transformer_options)

    @property
    def blocks(self) -> list[LooksAtPrompt]:
        return [module for module in self.modules() if isinstance(module, LooksAtPrompt)]


class Asks(Technique):
    """Remembers the rows of each call, and what the layer it asks for says of two places of row 0's prompt."""

    def __init__(self, asked: Site | None) -> None:
        self.cross_sites = [asked] if asked else []
        self.told: list[tuple[Site, Tensor]] = []
        self.maps: list[Tensor] = []
        self.branches: list[str] = []

    def call(self, call) -> None:
        self.branches.append(call.rows[0].branch)

    def attention(self, site, own, layer):
        if site == ASKED:
            self.maps.append(layer.attention_map(1))
        return own

    def cross_attention(self, site, layer) -> None:
        self.told.append((site, layer.logits(0, [4, 1])))

    def finish(self) -> Outcome:
        return Outcome()


@pytest.fixture
def unet() -> WithPrompt:
    with torch.no_grad():
        return WithPrompt().eval().requires_grad_(False)


HOSTS = {"A1111": (a1111, sample_a1111), "Forge": (forge, sample_forge)}


def hooks(module: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in module.modules())


@pytest.mark.parametrize("host", HOSTS)
def test_a_layer_is_told_of_as_it_computes(unet: WithPrompt, host: str) -> None:
    make, sample = HOSTS[host]
    p, asks = make(unet), Asks(ASKED)
    plain = sample(p, [["nurse"], ["king"]])
    last = unet.blocks[-1]
    last.given.clear()
    made, _ = watched(p, lambda: sample(p, [["nurse"], ["king"]]), asks)
    assert torch.equal(made, plain) and [site for site, _ in asks.told] == [ASKED] * 3
    for (_, found), (x, context) in zip(asks.told, last.given):
        q, k = last.attn2.to_q(x[0]).reshape(-1, HEADS, 8), last.attn2.to_k(context[0, [4, 1]]).reshape(2, HEADS, 8)
        assert torch.allclose(found, torch.einsum("thd,phd->htp", q, k) / 8**0.5, atol=1e-5)
    for looks in asks.maps:
        assert looks.shape == (6, 6) and torch.allclose(looks.sum(1), torch.ones(6)) and bool((looks > 0).all())
    assert hooks(last.attn2) == 0 and (host == "Forge" or asks.branches[0] == COND)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("asked", [None, ASKED])
def test_only_what_is_asked_for_has_hooks(unet: WithPrompt, host: str, asked: Site | None) -> None:
    p: SimpleNamespace = HOSTS[host][0](unet)
    attachment = find_adapter(p).attach(p, SamplingPass([Asks(asked)]))
    assert [hooks(block.attn2) > 0 for block in unet.blocks] == [False, False, asked is not None]
    attachment.detach()
    assert not any(hooks(block.attn2) for block in unet.blocks)


@pytest.mark.parametrize("host", HOSTS)
def test_another_call_of_the_model_is_not_told_of(unet: WithPrompt, host: str) -> None:
    p, asks = HOSTS[host][0](unet), Asks(ASKED)
    attachment = find_adapter(p).attach(p, SamplingPass([asks]))
    unet(torch.randn(2, 6, 16), torch.tensor([5, 5]), torch.randn(2, 6, 16), {} if host == "Forge" else None)
    attachment.detach()
    assert not asks.told


def test_a_fault_in_a_technique_does_not_end_the_hosts_call(unet: WithPrompt) -> None:
    class Fails(Asks):
        def cross_attention(self, site, layer) -> None:
            layer.logits(0, [77])

    p = a1111(unet)
    plain, sampling_pass = sample_a1111(p, ["nurse"]), SamplingPass([Fails(ASKED)])
    attachment = find_adapter(p).attach(p, sampling_pass)
    assert torch.equal(sample_a1111(p, ["nurse"]), plain) and sampling_pass.problem is not None
    attachment.detach()
