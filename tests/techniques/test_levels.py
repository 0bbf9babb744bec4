"""Which noise levels are kept, and which of a schedule they serve, on schedules as web UIs have them."""

from __future__ import annotations

import pytest

from lib_refdrop.model.rows import Kind
from lib_refdrop.model.schedule import distance, reach, spread, threshold
from lib_refdrop.references.plan import RECIPES, Plan
from lib_refdrop.references.reference import PassRecord, RecordedCall
from lib_refdrop.techniques.reference.levels import Levels

COND = Kind("cond")
TWENTY = [14.6146, 10.7468, 8.0815, 6.2049, 4.8557, 3.8654, 3.1237, 2.5572, 2.1157, 1.7648, 1.4806, 1.2458, 1.0482,
          0.8784, 0.7297, 0.5962, 0.4736, 0.3555, 0.2322, 0.0292]
# Restart goes back from level 0.1 to 2 and down again.
RESTART = [14.6146, 7.9, 4.0, 1.9, 0.78, 0.27, 0.11, 1.9, 1.3, 0.83, 0.51, 0.3, 0.17, 0.11, 0.03]
# DPM adaptive is called at levels close together first, and at some again, with others, where a step was refused.
ADAPTIVE = [14.6146, 14.2, 13.9, 13.5, 12.1, 11.2, 9.7, 11.0, 9.9, 8.0, 6.6, 5.0, 3.9, 2.8, 1.9,
            1.155, 0.8, 0.5, 0.3, 0.11, 0.03]


def kept_of(plan: Plan, calls, sigmas=None) -> list[float]:
    levels = Levels(plan, sigmas)
    for sigma in calls:
        levels.wants(sigma)
        assert plan.levels is None or len(levels.kept) <= plan.levels + 2  # never much more than was asked for
    levels.end()
    return levels.kept


def record_of(plan: Plan, calls, sigmas=None) -> PassRecord:
    """What a pass leaves that is recorded by a plan."""
    kept = kept_of(plan, calls, sigmas)
    recorded = [RecordedCall(sigma, calls[:at].count(sigma)) for at, sigma in enumerate(calls)]
    chosen = frozenset(at for at, call in enumerate(recorded) if call.sigma in kept)
    return PassRecord(tuple(recorded), {COND: chosen}, plan.percent)


@pytest.mark.parametrize("percent, guided", [(10, 2), (25, 5), (50, 10), (75, 15), (100, 20)])
@pytest.mark.parametrize("levels", sorted({recipe.levels or 0 for recipe in RECIPES.values()} | {1, 4}))
@pytest.mark.parametrize("known", [True, False])
def test_save_percentage_guides_exactly_the_part_asked_for(percent, guided, levels, known):
    plan = Plan("", {}, levels=levels or None, percent=percent)
    record = record_of(plan, TWENTY, TWENTY if known else None)
    served = [sigma for sigma in TWENTY if record.serving(sigma, 0, COND)]
    assert served == TWENTY[:guided]


@pytest.mark.parametrize("percent, guided", [(10, 2), (50, 10)])
def test_a_known_part_is_all_that_is_ever_kept(percent, guided):
    levels = Levels(Plan("", {}, percent=percent), TWENTY)
    assert [sigma for sigma in TWENTY if levels.wants(sigma)] == TWENTY[:guided]
    assert [sigma for sigma in TWENTY if levels.in_part(sigma)] == TWENTY[:guided]


ORDERS = {"restart": RESTART, "adaptive": ADAPTIVE, "euler": TWENTY, "back": TWENTY[::-1]}


@pytest.mark.parametrize("calls", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_levels_are_spread_over_a_schedule_whatever_the_order_they_come_in(calls, count):
    """No level is more than half again as far from one that was kept as with the best choice in hindsight."""
    def missed(kept):
        return sum(min(distance(sigma, each) for each in kept) for sigma in set(calls))

    kept = kept_of(Plan("", {}, levels=count), calls)
    assert len(kept) == count and kept == sorted(kept, reverse=True)
    assert missed(kept) <= 1.5 * missed(spread(calls, count)) + 1e-9


@pytest.mark.parametrize("calls", [RESTART, ADAPTIVE], ids=["restart", "adaptive"])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_sampler_that_leaves_the_schedule_told_is_thinned_out_as_it_comes(calls, count):
    kept = kept_of(Plan("", {}, levels=count), calls, TWENTY)
    assert len(kept) == count and max(kept) >= 4 and min(kept) < 2


@pytest.mark.parametrize("calls", [RESTART, ADAPTIVE], ids=["restart", "adaptive"])
@pytest.mark.parametrize("levels", [None, 3, 2])
def test_every_level_of_its_own_schedule_is_served(calls, levels):
    record = record_of(Plan("", {}, levels=levels), calls)
    assert all(record.serving(sigma, 0, COND) for sigma in calls)
    assert all(record.serving(sigma, 0, COND) for sigma in TWENTY)


def test_reach_goes_by_noise_not_by_the_order_of_arrival():
    for calls in (RESTART, ADAPTIVE):
        assert reach(calls) == reach(sorted(calls)) and 14.6146 * 1.2 < reach(calls) < 60
    assert 1.9 < reach([0.1, 1.9, 1.85]) < 3  # levels close together reach no less than a quarter further


def test_second_calls_of_a_level_are_no_level_of_their_own():
    heun = [sigma for sigma in TWENTY for _ in range(2)][1:]
    assert kept_of(Plan("", {}, levels=3), heun) == kept_of(Plan("", {}, levels=3), TWENTY)
    assert kept_of(Plan("", {}, levels=3), heun, TWENTY) == spread(TWENTY, 3)


def test_calls_between_the_levels_of_a_known_schedule_are_left_out():
    pairs = zip(TWENTY, TWENTY[1:])
    between = [level for high, low in pairs for level in (high, (high * low) ** 0.5)] + TWENTY[-1:]
    assert kept_of(Plan("", {}, levels=4), between, TWENTY) == spread(TWENTY, 4)


def test_a_part_is_of_levels_not_of_calls():
    assert threshold(TWENTY, 50) == pytest.approx(1.7648, rel=1e-3)
    assert threshold([*TWENTY, *TWENTY], 50) == threshold(TWENTY, 50) and threshold(TWENTY, 100) == 0
