"""AdaIN: statistics of block outputs, and of queries and keys, brought to the reference's."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from lib_refdrop.hosts.diffusers import attached, outputs
from lib_refdrop.model.rows import Kind, Row
from lib_refdrop.model.sites import Block
from lib_refdrop.references.contents import passes_of
from lib_refdrop.references.plan import RECIPES
from lib_refdrop.references.recode import recode
from lib_refdrop.references.reference import Key, Reference, passes_from
from lib_refdrop.stores import DiskStore
from lib_refdrop.techniques.reference.adain import adapted, aligned, statistics, token_statistics
from lib_refdrop.techniques.reference.concatenation import joined
from lib_refdrop.techniques.reference.course import parse
from lib_refdrop.techniques.reference.guidance import Guidance
from lib_refdrop.techniques.reference.masks import Mask
from lib_refdrop.techniques.reference.rfg import attention
from lib_refdrop.techniques.reference.strength import Strength
from lib_refdrop.techniques.sampling_pass import SamplingPass
from lib_refdrop.techniques.technique import Technique
from lib_refdrop.words import ReferenceProblem

COND, UNCOND = Kind("cond"), Kind("uncond")
ALONE = Strength(0.0, adain=1.0)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("amount", [0.25, 1.0])
def test_mean_and_spread_are_mixed(amount) -> None:
    """As ControlNet's reference_adain: (x − μ)/√v · √v′ + μ′ by channel, here a part of the way."""
    x, other = 2 * random(2, 3, 4, 5) + 1, 0.5 * random(1, 3, 6, 6, seed=1) - 4
    theirs = statistics(other)[0]
    found = adapted(x, statistics(x), [theirs], [amount], [None])
    mean, deviation = x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True, unbiased=False)
    whole = (x - mean) / deviation * other.std((2, 3), keepdim=True, unbiased=False) + other.mean((2, 3), keepdim=True)
    torch.testing.assert_close(found, (1 - amount) * x + amount * whole)


def test_the_same_statistics_change_no_bit_and_a_flat_channel_stays_finite() -> None:
    x = random(1, 3, 4, 4)
    x[0, 1] = 7
    own = statistics(x)
    assert torch.equal(adapted(x, own, [own[0]], [1.0], [None]), x)
    found = adapted(x, own, [statistics(random(1, 3, 4, 4, seed=1))[0]], [1.0], [None])
    assert torch.isfinite(found).all() and found[0, 1].std() == 0
    assert adapted(x, own, [], [], []) is x


def test_two_references_add_and_a_mask_leaves_the_rest_to_the_bit() -> None:
    x, own = random(1, 2, 4, 4), statistics(random(1, 2, 4, 4))
    one, other = (statistics(random(1, 2, 4, 4, seed=seed) + seed)[0] for seed in (1, 2))
    both = adapted(x, own, [one, other], [0.5, 0.25], [None, None])
    alone = [adapted(x, own, [each], [amount], [None]) for each, amount in ((one, 0.5), (other, 0.25))]
    torch.testing.assert_close(both, x + sum(each - x for each in alone))
    mask = torch.zeros(4, 4)
    mask[:2] = 1
    part = adapted(x, own, [one], [0.5], [mask])
    assert torch.equal(part[:, :, 2:], x[:, :, 2:]) and torch.equal(part[:, :, :2], alone[0][:, :, :2])


def test_half_precision_does_not_overflow() -> None:
    x = (300 * random(1, 2, 8, 8) + 1000).half()
    found = adapted(x, statistics(x), [torch.tensor([[-2000.0, 0.0], [900.0, 1.0]])], [1.0], [None])
    assert found.dtype == torch.float16
    torch.testing.assert_close(statistics(found)[0], torch.tensor([[-2000.0, 0.0], [900.0, 1.0]]), atol=1, rtol=0.01)


def test_queries_and_keys_get_the_references_statistics_per_channel() -> None:
    tokens, theirs = random(2, 9, 6), token_statistics(random(7, 6, seed=1) * 3 + 2)
    torch.testing.assert_close(token_statistics(aligned(tokens, theirs, 1.0)), theirs.expand(2, 2, 6))
    half = aligned(tokens, theirs, 0.5)
    torch.testing.assert_close(half, (tokens + aligned(tokens, theirs, 1.0)) / 2)
    torch.testing.assert_close(token_statistics(tokens[0]), torch.stack([
        tokens[0].mean(0), tokens[0].std(0, unbiased=False)]))


def test_merged_tokens_count_for_what_they_stand_for() -> None:
    tokens = random(2, 4)
    torch.testing.assert_close(token_statistics(tokens, torch.tensor([3.0, 1.0]).log()),
                               token_statistics(tokens[[0, 0, 0, 1]]))


def test_joined_attention_is_over_aligned_keys_and_by_aligned_queries() -> None:
    """As StyleAligned: Attn(Q̂, [K̂; K′], [V; V′])."""
    class Layer:
        q, k, v = (random(1, 4, 8, seed=seed) for seed in (1, 2, 3))

        def key_values(self, row):
            return self.k[row], self.v[row]

        def attend(self, rows, k, v, bias=None, q=None):
            return attention(self.q[rows] if q is None else q, k[None], v[None], 2, bias)

    layer, k, v = Layer(), random(4, 8, seed=4) * 2, random(4, 8, seed=5)
    queries, keys = token_statistics(random(4, 8, seed=6)), token_statistics(k)
    q = aligned(layer.q, queries, 1.0)
    found = joined(layer, slice(0, 1), 4, k, v, q=q, keys=keys, amount=1.0)
    own = (layer.k - layer.k.mean(1, keepdim=True)) / layer.k.std(1, keepdim=True, unbiased=False)
    own = own * k.std(0, unbiased=False) + k.mean(0)
    wanted = attention(q, torch.cat([own[0], k])[None], torch.cat([layer.v[0], v])[None], 2)
    torch.testing.assert_close(found, wanted)


# --- in a generation ---


class Blocks(Technique):
    """Remembers statistics of what blocks give, behind the techniques before it: by call and block, a row each."""

    hears_blocks = True

    def __init__(self) -> None:
        self.seen: list[dict[Block, torch.Tensor]] = []

    def call(self, call) -> None:
        self.seen.append({})

    def block(self, block, output):
        self.seen[-1][block] = statistics(output)
        return output


def drawn(studio, reference, strength, **picture):
    """A picture, what guidance did, and the statistics behind it: rows are the negative prompt's and the prompt's."""
    blocks, guidance = Blocks(), Guidance([(reference, strength)], studio.lineage)
    sampling_pass = SamplingPass([guidance, blocks])
    image = studio.draw(sampling_pass, **picture)
    sampling_pass.finish()
    return image, sampling_pass.outcomes[guidance], blocks.seen


def kept(reference, call, block, kind=COND):
    return reference.features[Key("base", call, block, kind).tensor_name("stats")]


@pytest.fixture(scope="module")
def hero(studio):
    return studio.record(seed=4, steps=2)


def test_alone_it_gives_every_block_the_references_statistics(studio, hero) -> None:
    image, outcome, seen = drawn(studio, hero[0], ALONE, seed=9, steps=2)
    plain, _, before = drawn(studio, hero[0], Strength(0.0), seed=9, steps=2)
    assert outcome.acted_on_all == outcome.calls == 2 and not torch.equal(image, plain)
    assert set(seen[0]) == set(studio.lineage.blocks)
    for call in range(2):
        for block in seen[call]:
            for row, kind in enumerate((UNCOND, COND)):
                wanted = kept(hero[0], call, block, kind)
                torch.testing.assert_close(seen[call][block][row], wanted, atol=1e-4, rtol=1e-3)
    changed = Block("output", 5)
    assert (before[0][changed][1] - kept(hero[0], 0, changed)).abs().max() > 1e-2


@pytest.mark.parametrize("weight", [None, 1.0], ids=["coefficient", "concatenate"])
def test_it_combines_with_attention(studio, hero, weight) -> None:
    """Blocks have the reference's statistics whatever attention does, and attention acts whatever they have."""
    with_both, outcome, seen = drawn(studio, hero[0], Strength(0.4, weight=weight, adain=1.0), seed=9, steps=2)
    alone, _, _ = drawn(studio, hero[0], ALONE, seed=9, steps=2)
    attends, _, _ = drawn(studio, hero[0], Strength(0.4, weight=weight), seed=9, steps=2)
    last = Block("output", 5)
    torch.testing.assert_close(seen[1][last][1], kept(hero[0], 1, last), atol=1e-4, rtol=1e-3)
    assert outcome.acted_on_all == 2 and min((with_both - alone).abs().max(), (with_both - attends).abs().max()) > 1e-2


def test_style_fidelity_layers_and_schedule_hold_for_it(studio, hero) -> None:
    first, later = Block("input", 1), Block("output", 0)
    _, _, plain = drawn(studio, hero[0], Strength(0.0), seed=9, steps=2)
    _, _, fine = drawn(studio, hero[0], Strength(0.0, adain=1.0, fidelity=1.0), seed=9, steps=2)
    assert torch.equal(fine[0][first][0], plain[0][first][0])  # the negative prompt's
    torch.testing.assert_close(fine[0][first][1], kept(hero[0], 0, first), atol=1e-4, rtol=1e-3)
    _, outcome, placed = drawn(studio, hero[0], replace(ALONE, course=parse("input=0; 0.4-1")), seed=9, steps=2)
    assert outcome.acted == 1 and torch.equal(placed[0][later], plain[0][later])
    torch.testing.assert_close(placed[1][later][1], kept(hero[0], 1, later), atol=1e-4, rtol=1e-3)
    assert (placed[1][first][1] - kept(hero[0], 1, first)).abs().max() > 1e-2


@pytest.mark.parametrize("keep", ["Exact", "Tiny"])
@pytest.mark.parametrize("strength", [ALONE, Strength(0.5, adain=0.5, adain_attention=1.0)], ids=["alone", "all"])
def test_a_reference_gives_its_own_picture(studio, keep, strength) -> None:
    reference, image = studio.record(seed=4, steps=2, plan=RECIPES[keep].plan(keep, studio.lineage))
    again, outcome = studio.use(reference, strength, seed=4, steps=2)
    assert outcome.acted_on_all == 2 and (again - image).abs().max() < 2e-3


def test_queries_and_keys_change_what_attention_gives(studio, hero) -> None:
    def guided(**settings):
        return studio.use(hero[0], Strength(0.5, **settings), seed=9, steps=2)

    plain, _ = guided()
    assert torch.equal(guided(adain_attention=0.0)[0], plain)
    made, outcome = guided(adain_attention=1.0)
    assert (made - plain).abs().max() > 1e-3 and outcome.notes == []
    joined_up, _ = guided(adain_attention=1.0, weight=1.0)
    assert (joined_up - guided(weight=1.0)[0]).abs().max() > 1e-3


def test_where_only_keys_and_values_are_kept_it_is_said(studio) -> None:
    plan = RECIPES["Exact"].plan("Exact", studio.lineage)
    plan = replace(plan, sites={site: replace(how, what="kv") for site, how in plan.sites.items()})
    reference, _ = studio.record(seed=4, steps=1, plan=plan)
    _, outcome = studio.use(reference, Strength(0.5, adain_attention=1.0), seed=9, steps=1)
    assert outcome.notes == ["Reference 'ref' keeps keys and values alone in some layers, so the new picture's queries "
                             "stay as they are there."]


def test_no_hook_is_on_a_block_unless_it_is_wanted(studio, hero) -> None:
    modules = outputs(studio.unet).values()
    for strength, count in ((Strength(0.5), 0), (ALONE, 1)):
        sampling_pass = SamplingPass([Guidance([(hero[0], strength)], studio.lineage)])
        with attached(studio.unet, sampling_pass, lambda n: [], studio.pipeline.scheduler.alphas_cumprod):
            assert {len(module._forward_hooks) for module in modules} == {count}
    assert {len(module._forward_hooks) for module in modules} == {0}


def without_statistics(reference, trajectory: bool):
    """As an earlier version kept it."""
    features = {name: reference.features[name] for name in reference.features
                if not name.endswith("/stats") and (trajectory or name.count("/") != 3)}
    calls = {name: record.calls for name, record in reference.passes.items()}
    return Reference("old", {**reference.manifest, "format": 2}, passes_from(calls, features), features, 1)


def test_an_older_reference_is_replayed_for_it_or_refused_in_a_sentence(studio, tmp_path) -> None:
    made, _ = studio.record(seed=4, steps=2, plan=RECIPES["Balanced"].plan("Balanced", studio.lineage))
    old = without_statistics(made, trajectory=True)
    DiskStore(tmp_path).save(old, "old")
    old = DiskStore(tmp_path).load("old")
    assert studio.use(old, 0.3, seed=9, steps=2)[1].acted_on_all == 2
    _, _, seen = drawn(studio, old, ALONE, seed=9, steps=2)
    last = Block("output", 5)
    torch.testing.assert_close(seen[1][last][1], kept(made, 1, last).float(), atol=2e-3, rtol=5e-3)
    with pytest.raises(ReferenceProblem, match="'old' keeps no statistics of the blocks chosen.*save it again.$"):
        Guidance([(without_statistics(made, trajectory=False), ALONE)], studio.lineage)


def test_a_mask_holds_for_it_and_the_references_own_is_said_not_to(studio, hero) -> None:
    half = torch.zeros(8, 8)
    half[:, :4] = 1
    made, outcome = studio.use(hero[0], replace(ALONE, mask=Mask(half), looks_at=Mask(half)), seed=9, steps=2)
    assert not torch.equal(made, studio.use(hero[0], ALONE, seed=9, steps=2)[0])
    assert outcome.notes == ["AdaIN goes by all of reference 'ref': its mask chooses what attention looks at."]


def test_statistics_of_another_width_are_told(studio, hero) -> None:
    name = Key("base", 0, Block("input", 1), COND).tensor_name("stats")
    wrong = replace(hero[0], features={**hero[0].features, name: torch.ones(2, 7)})
    with pytest.raises(ReferenceProblem, match=r"block input.1 cannot take \(7 channels instead of 64\)"):
        studio.use(wrong, ALONE, seed=9, steps=2)


@pytest.mark.parametrize("value", [torch.ones(3, 64), torch.ones(2, 64, dtype=torch.int8), torch.ones(64)],
                         ids=["shape", "type", "one row"])
def test_impossible_statistics_make_a_file_a_damaged_one(hero, value) -> None:
    name = Key("base", 0, Block("input", 1), COND).tensor_name("stats")
    manifest = json.loads(json.dumps(hero[0].manifest))
    assert passes_of(manifest, hero[0].features) == hero[0].passes
    with pytest.raises(ValueError, match="statistics of input.1"):
        passes_of(manifest, {**hero[0].features, name: value})


def test_a_smaller_copy_takes_them_along(studio, hero) -> None:
    plan = RECIPES["Small"].plan("Small", studio.lineage)
    small = recode(hero[0], plan)
    block = Block("output", 5)
    assert small.blocks("base") == set(plan.blocks) and kept(small, 0, block).dtype == torch.float16
    torch.testing.assert_close(kept(small, 0, block).float(), kept(hero[0], 0, block), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("shape", ["sd15", "sdxl"])
def test_blocks_are_those_of_the_original_layout(shape) -> None:
    """There an up-sampling is the end of its block, and the middle block ends with a resnet."""
    from diffusers import UNet2DConditionModel

    base = dict(block_out_channels=(32, 64, 128, 128), cross_attention_dim=16, norm_num_groups=32, layers_per_block=2)
    if shape == "sdxl":
        base |= dict(block_out_channels=(32, 64, 128), transformer_layers_per_block=(1, 1, 1),
                     down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                     up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"))
    unet, seen = UNet2DConditionModel(**base), Blocks()
    with attached(unet, SamplingPass([seen]), lambda n: [Row("cond")], torch.linspace(0.999, 0.005, 1000)), \
            torch.no_grad():
        unet(random(1, 4, 16, 16), 500, random(1, 3, 16))
    kinds = {str(block): type(module).__name__ for block, module in outputs(unet).items()}
    assert set(map(str, seen.seen[0])) == set(kinds)
    ups = {"sd15": {"output.5", "output.8"}, "sdxl": {"output.2", "output.5"}}[shape]
    assert {block for block, kind in kinds.items() if kind == "Upsample2D"} == ups
    assert kinds["middle.0"] == "ResnetBlock2D"
    wanted = {"sd15": ["input.1", "input.2", "input.4", "input.5", "input.7", "input.8", "middle.0",
                       *(f"output.{number}" for number in range(3, 12))],
              "sdxl": ["input.4", "input.5", "input.7", "input.8", "middle.0",
                       *(f"output.{number}" for number in range(6))]}[shape]
    assert sorted(kinds) == sorted(wanted)
