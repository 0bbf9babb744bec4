"""What is promised holds in a real web UI, judged by the pixels of its pictures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from .conftest import HIRES, PLAIN
from .webui import REFERENCE, SIZE, TARGET, Made, WebUI, difference

LONG = ", ".join(["a very long prompt that does not fit into one chunk of tokens"] * 9)
ROUNDING = 1.0  # grey levels, mean: a cut through the rounding of half precision


def test_a_reference_changes_the_picture_and_its_parameters_say_so(webui: WebUI, without: dict[str, Made]) -> None:
    made = webui.use("hero")
    assert difference(made, without["euler"]) > 0
    assert "RefDrop RFG: 0.3" in made.parameters[0] and "RefDrop reference: hero" in made.parameters[0]
    assert made.problem is None


@pytest.mark.parametrize("case", PLAIN)
def test_off_and_c_0_are_what_the_web_ui_makes_alone(webui: WebUI, without: dict[str, Made], case: str) -> None:
    payload = {**TARGET, **PLAIN[case]}
    webui.use("hero", 0.5, **payload)  # something was guided just before
    assert webui.draw(**payload).hashes == without[case].hashes
    assert webui.draw([False, 0.9, "Use"], **payload).hashes == without[case].hashes
    zero = webui.use("hero", 0, **payload)
    assert zero.hashes == without[case].hashes
    assert "RefDrop" not in zero.parameters[0]


@pytest.mark.parametrize("c", [-0.5, 0.3, 1.0])
def test_own_seed_gives_the_own_picture(webui: WebUI, c: float) -> None:
    own = webui.draw(**REFERENCE)
    assert difference(webui.use("hero", c, **REFERENCE), own) <= ROUNDING


@pytest.mark.parametrize("payload", [
    {"batch_size": 2}, {"n_iter": 2}, {"width": 2 * SIZE, "height": SIZE}, {"steps": 5}, {"sampler_name": "Heun"},
    {"sampler_name": "DPM++ SDE", "scheduler": "Karras"}, {"sampler_name": "DDIM"}, {"cfg_scale": 1},
    {"prompt": LONG}, {"prompt": "a nurse waving AND a king on sand :0.7"}, {"s_min_uncond": 5},
    {"override_settings": {"token_merging_ratio": 0.5}},
], ids=str)
def test_a_reference_of_one_picture_serves_other_settings(webui: WebUI, payload: dict) -> None:
    plain, made = webui.draw(**{**TARGET, **payload}), webui.use("hero", **payload)
    assert made.problem is None and "RefDrop RFG" in made.parameters[0]
    assert all(one != other for one, other in zip(made.hashes, plain.hashes)) and len(made.hashes) == len(plain.hashes)
    assert webui.use("hero", **payload).hashes == made.hashes


def test_each_picture_of_a_batch_is_guided_as_it_would_be_alone(webui: WebUI) -> None:
    batch = webui.use("hero", batch_size=2)
    alone = webui.use("hero", seed=TARGET["seed"] + 1)
    batch.pixels.reverse()
    assert difference(batch, alone) <= ROUNDING


@pytest.mark.parametrize("sampler", ["Heun", "DPM++ SDE", "DDIM", "UniPC"])
def test_other_samplers_record_as_well(webui: WebUI, sampler: str) -> None:
    own = webui.save("other", sampler_name=sampler)
    assert own.problem is None
    assert difference(webui.use("other", 0.7, **REFERENCE, sampler_name=sampler), own) <= ROUNDING


def test_cond_and_uncond_in_separate_calls(webui: WebUI) -> None:
    together = webui.use("hero")
    apart = webui.use("hero", override_settings={"batch_cond_uncond": False})
    assert apart.problem is None and difference(together, apart) <= ROUNDING


def test_hires_runs_plain_unless_switched_on(webui: WebUI, without: dict[str, Made]) -> None:
    webui.save("tall", {"enabled_hr": True}, **HIRES)
    first = webui.use("tall", **HIRES)
    both = webui.use("tall", settings={"enabled_hr": True}, **HIRES)
    assert difference(first, without["hires"]) > 0 and difference(both, first) > 0
    assert "RefDrop hires: True" in both.parameters[0] and "RefDrop hires" not in first.parameters[0]
    assert "hires" in webui.use("hero", settings={"enabled_hr": True}, **HIRES).problem


def test_own_seed_through_hires(webui: WebUI) -> None:
    settings = {"enabled_hr": True}
    own = webui.save("tall", settings, **HIRES)
    assert difference(webui.use("tall", 0.5, settings, **REFERENCE, **HIRES), own) <= ROUNDING


def test_memory_serves_like_the_disk(webui: WebUI) -> None:
    webui.save("hero", {"store": "RAM"})
    assert webui.use("hero", settings={"store": "RAM"}).hashes == webui.use("hero").hashes


@pytest.mark.parametrize("keep", ["Balanced", "Small", "Tiny"])
def test_smaller_references_serve_as_well(webui: WebUI, without: dict[str, Made], keep: str) -> None:
    saved = webui.save(keep, {"keep": keep})
    assert saved.problem is None and saved.hashes == webui.draw(**REFERENCE).hashes
    made = webui.use(keep)
    assert made.problem is None and "RefDrop RFG" in made.parameters[0] and made.hashes != without["euler"].hashes
    assert webui.use(keep, 0).hashes == without["euler"].hashes
    assert (webui.references / f"{keep}.safetensors").stat().st_size < \
        (webui.references / "hero.safetensors").stat().st_size


def test_a_reference_that_is_computed_again_gives_its_own_picture(webui: WebUI) -> None:
    own = webui.save("again", {"keep": "Tiny"})
    assert difference(webui.use("again", 0.7, **REFERENCE), own) <= ROUNDING


@pytest.mark.parametrize("how", ["interrupt", "skip"])
def test_after_it_was_cut_short_everything_is_as_before(webui: WebUI, without: dict[str, Made], how: str) -> None:
    made = _cut_short(webui, how, lambda: webui.use("hero", steps=150, batch_size=2))
    assert made.problem is None
    assert webui.draw(**TARGET).hashes == without["euler"].hashes
    assert webui.use("hero").problem is None


@pytest.mark.parametrize("how", ["interrupt", "skip"])
def test_a_save_that_was_cut_short_keeps_nothing(webui: WebUI, how: str) -> None:
    _cut_short(webui, how, lambda: webui.save("half", steps=150))
    assert not (webui.references / "half.safetensors").exists()


def _cut_short(webui: WebUI, how: str, request: Callable[[], Made]) -> Made:
    """Presses the button ``how`` once the first step is done."""
    made: list[Made] = []
    slow = threading.Thread(target=lambda: made.append(request()))
    slow.start()
    while slow.is_alive() and not webui.get("/sdapi/v1/progress")["state"]["sampling_step"]:
        time.sleep(0.05)
    webui.post(f"/sdapi/v1/{how}", {})
    slow.join()
    return made[0]
