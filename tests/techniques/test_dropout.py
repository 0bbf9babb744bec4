"""Token dropout: which of a reference's tokens a layer does without, and that it is chance only for who has no seed."""

from __future__ import annotations

import pytest
import torch

from lib_refdrop.model.layer import ModelCall
from lib_refdrop.model.rows import Kind, Row
from lib_refdrop.model.sites import Site
from lib_refdrop.references.on_device import KeyValues
from lib_refdrop.references.plan import RECIPES
from lib_refdrop.techniques.reference.dropout import dropped, kept
from lib_refdrop.techniques.reference.guidance import Guidance
from lib_refdrop.techniques.reference.strength import Strength
from lib_refdrop.techniques.sampling_pass import SamplingPass

SITE = Site("output", 1, 0)


@pytest.mark.parametrize("tokens, rate, left", [(100, 0.5, 50), (100, 0.9, 10), (7, 0.5, 4), (3, 0.9, 1), (1, 0.9, 1)])
def test_so_many_are_left_each_of_them_once(tokens, rate, left) -> None:
    found = kept(tokens, rate, 1, "here").tolist()
    assert len(found) == left and found == sorted(set(found)) and 0 <= found[0] and found[-1] < tokens


def test_chance_follows_from_seed_place_and_time_and_hits_all_alike() -> None:
    """The tokens themselves stand here: a picture's parameters make it again, with another version too."""
    assert kept(12, 0.5, 7, "output.1.0", 3.5, 0).tolist() == [0, 1, 3, 5, 7, 8]
    others = [kept(12, 0.5, 8, "output.1.0", 3.5, 0), kept(12, 0.5, 7, "output.1.1", 3.5, 0),
              kept(12, 0.5, 7, "output.1.0", 3.4, 0), kept(12, 0.5, 7, "output.1.0", 3.5, 1)]
    assert all(other.tolist() != [0, 1, 3, 5, 7, 8] for other in others)
    state = torch.random.get_rng_state()
    counts = torch.bincount(torch.cat([kept(10, 0.5, seed) for seed in range(2000)]), minlength=10)
    assert torch.equal(state, torch.random.get_rng_state())  # everybody's random numbers are as they were
    assert counts.sum() == 10_000 and (counts - 1000).abs().max() < 120  # five deviations


def test_keys_values_and_biases_go_together() -> None:
    k, v, bias = torch.arange(8.0)[:, None], torch.arange(8.0)[:, None] + 100, torch.arange(8.0) + 1000
    keys, values, biases = dropped(KeyValues(k, v, bias), 0.5, 1, SITE, 2.0, 0)[:3]
    assert len(keys) == 4 and torch.equal(keys + 100, values) and torch.equal(keys[:, 0] + 1000, biases)
    assert dropped(KeyValues(k, v), 0.5, 1, SITE, 2.0, 0).bias is None


def guided(studio, reference, strength, seeds, **picture):
    sampling_pass = SamplingPass([Guidance([(reference, strength)], studio.lineage, seeds=seeds)])
    image = studio.draw(sampling_pass, **picture)
    (outcome,) = sampling_pass.finish()
    assert outcome.acted_on_all == outcome.calls
    return image


@pytest.mark.parametrize("weight", [None, 1.0])
def test_the_same_seed_gives_the_same_picture_also_in_a_batch(studio, weight) -> None:
    reference, _ = studio.record(seed=4, plan=RECIPES["Balanced"].plan("Balanced", studio.lineage))
    half = Strength(0.5, weight=weight, dropout=0.5)
    one = guided(studio, reference, half, [9], seed=9, steps=3)
    assert torch.equal(one, guided(studio, reference, half, [9], seed=9, steps=3))
    assert (one - guided(studio, reference, half, [1], seed=9, steps=3)).abs().max() > 1e-2  # only its chance is other
    whole = guided(studio, reference, Strength(0.5, weight=weight), [9], seed=9, steps=3)
    assert (one - whole).abs().max() > 1e-2
    batch = guided(studio, reference, half, [8, 9], seed=8, batch=2, steps=3)
    assert (batch[1] - one[0]).abs().max() < 1e-3


def test_both_branches_do_without_the_same_tokens(studio, monkeypatch) -> None:
    """In whatever order the host lays out the rows."""
    seen = {}

    class Layer:
        def attend(self, rows, k, v, bias=None, q=None):
            seen[rows.start] = k
            return torch.zeros(1, 4, k.shape[1])

    reference, _ = studio.record(seed=4, steps=1)
    guidance = Guidance([(reference, Strength(0.5, dropout=0.5))], studio.lineage, seeds=[3, 4])
    site = next(site for site in studio.lineage.sites if site.section == "middle")
    rows = [Row("uncond", 0), Row("uncond", 1), Row("cond", 1), Row("cond", 0)]
    own, layer = torch.zeros(4, 4, studio.lineage.sites[site].width), Layer()
    numbered = torch.arange(16.0)[:, None].expand(-1, own.shape[2])
    monkeypatch.setattr(guidance._guides[0], "fetch", lambda *given: KeyValues(numbered, numbered))
    sigma = reference.passes["base"].calls[0].sigma
    guidance.call(ModelCall(sigma, tuple(rows), {Kind("cond"): 0, Kind("uncond"): 0}))
    guidance.attention(site, own, layer)
    places = {row: seen[row][:, 0].tolist() for row in range(4)}
    assert places[0] == places[3] != places[1] == places[2] and len(places[0]) == 8
