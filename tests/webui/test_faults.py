"""Faults that users met: each generation says what happened to it, and leaves nothing to the next."""

from __future__ import annotations

import copy
import gc
import logging
from types import SimpleNamespace

import pytest
import torch

from lib_refdrop.webui import options, xyz
from lib_refdrop.webui import run as runs
from lib_refdrop.webui.infotext import NOTE, PROBLEM
from lib_refdrop.webui.messages import logger, set_up_log
from lib_refdrop.webui.provenance import differences, provenance
from lib_refdrop.webui.shelf import Shelf
from lib_refdrop.words import StoreProblem

from ..fuzz.forging import Forged
from .conftest import Program

SAVE = [{"enabled": True, "mode": "Save", "reference": "hero"}]
USE = [{"enabled": True, "mode": "Use", "reference": "hero", "rfg": 0.5}]
TINY = [{**SAVE[0], "keep": "Tiny"}]


def test_a_copy_that_failed_and_that_nobody_closed_makes_no_later_one_plain(program, new, generate) -> None:
    """Plots and prompts from a file copy the processing object for every picture and close none of the copies."""
    generate(new(), SAVE)
    plain, p = generate(new(), [False], "nurse"), new()

    def plot() -> torch.Tensor:
        failed = copy.copy(p)
        with pytest.raises(ZeroDivisionError):
            generate(failed, USE, fail=ZeroDivisionError())
        second = copy.copy(p)
        made = generate(second, USE, "nurse")
        assert second.extra_generation_params["RefDrop RFG"] == 0.5 and failed.refdrop is not second.refdrop
        return made

    assert not torch.allclose(plot(), plain)
    unet = p.sd_model.model.diffusion_model
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


def test_a_save_to_memory_that_failed_gives_its_room_back(program, new, generate) -> None:
    for number in range(3):
        with pytest.raises(ZeroDivisionError):
            generate(new(seed=number), [{**SAVE[0], "store": "RAM", "reference": f"cell {number}"}],
                     fail=ZeroDivisionError())
    generate(new(), [False])
    generate(new(), USE[:0] + [{**SAVE[0], "store": "RAM"}])
    gc.collect()
    assert program.shelf.memory.names() == ["hero"]
    assert program.shelf.memory.budget.used == program.shelf.memory.load("hero").nbytes


def test_a_generation_of_another_job_is_not_inside_one_that_failed_late(program, new, generate) -> None:
    generate(new(), SAVE)

    def fail(p) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        generate(new(), USE, "nurse", inside=fail)  # after the pictures were sampled
    program.host.state.begin("the next request")
    p = new()
    generate(p, USE, "nurse")
    assert p.extra_generation_params["RefDrop RFG"] == 0.5


def test_an_inner_generation_that_runs_plain_is_told_of(program, new, generate) -> None:
    generate(new(), SAVE)
    outer, marked = new(), new(_ad_inner=True)
    generate(outer, USE, "nurse", inside=lambda p: generate(new(), USE, "king"))
    assert "ran without RefDrop" in outer.comments[-1]
    generate(marked, USE, "king")  # a detailer's own mark, whatever runs outside
    assert "RefDrop RFG" not in marked.extra_generation_params


@pytest.mark.parametrize("then, now, words", [
    ({"sd_model_hash": "aaaa", "sd_model_name": "anime"}, {"sd_model_hash": "bbbb"}, "another checkpoint, anime"),
    ({}, {"override_settings": {"CLIP_stop_at_last_layers": 2}}, "CLIP skip 1, now 2"),
    ({}, {"override_settings": {"token_merging_ratio": 0.5}}, "token merging 0, now 0.5"),
    ({"sd_vae_name": "vivid.vae.pt"}, {}, "VAE vivid.vae.pt, now the checkpoint's own"),
    ({"extra_network_data": {"lora": [SimpleNamespace(items=["hat", "0.8"])]}}, {}, "networks lora:hat:0.8, now none"),
    ({"extra_network_data": {"lora": [SimpleNamespace(items=["hat", "0.8"])]}},
     {"extra_network_data": {"lora": [SimpleNamespace(items=["hat", "0.8"])]}}, None),
    ({"override_settings": {"hypertile_enable_unet": True}}, {}, "HyperTile on, now off"),
    ({}, {"override_settings": {"sd_hypernetwork": "anime"}}, "hypernetwork None, now anime"),
    ({"init_images": [], "denoising_strength": 1.0, "override_settings": {"token_merging_ratio_img2img": 0.4}},
     {"init_images": [], "denoising_strength": 1.0}, "token merging 0.4, now 0"),
    ({"override_settings": {"token_merging_ratio_img2img": 0.4}}, {}, None),  # none of this picture's settings
    ({"override_settings": {"forge_additional_modules": ["/models/VAE/ae.safetensors"]}},
     {"override_settings": {"forge_additional_modules": ["C:\\VAE\\vivid.pt"]}},
     "VAE / Text Encoder ae.safetensors, now vivid.pt"),
    ({"override_settings": {"forge_additional_modules": ["/models/VAE/ae.safetensors"]}},
     {"override_settings": {"forge_additional_modules": ["C:\\moved\\ae.safetensors"]}}, None),
], ids=["checkpoint", "CLIP skip", "token merging", "VAE", "network", "the same", "HyperTile", "hypernetwork",
        "token merging img2img", "token merging of other pictures", "VAE in Forge", "the same VAE in Forge"])
def test_what_differs_from_the_save_and_matters_is_noted(new, generate, then, now, words) -> None:
    generate(new(**then), SAVE)
    p = new(**now)
    generate(p, USE, "nurse")
    assert "RefDrop RFG" in p.extra_generation_params
    if words is None:
        assert NOTE not in p.extra_generation_params
    else:
        assert words in p.extra_generation_params[NOTE] and words in p.comments[-1]


@pytest.mark.parametrize("then, words", [
    ({"override_settings": {"token_merging_ratio_hr": 0.5}}, "token merging of the hires pass 0.5, now 0"),
    ({"override_settings": {"hypertile_enable_unet_secondpass": True}}, "HyperTile of the hires pass on, now off"),
    ({"hr_extra_network_data": {"lora": [SimpleNamespace(items=["hat"])]}},
     "networks of the hires pass lora:hat, now none"),
])
def test_what_differs_in_the_hires_pass_is_noted_where_the_reference_has_one(program, new, then, words) -> None:
    saved, now = provenance(new(enable_hr=True, **then), program.host), new(enable_hr=True)
    (said,) = differences({**saved, "passes": {"base": [], "hires": []}}, now, program.host)
    assert words in said and said.count(" now ") == 1
    assert not differences({**saved, "passes": {"base": []}}, now, program.host)
    assert not differences({**saved, "passes": {"base": [], "hires": []}}, new(), program.host)  # no such pass now


def test_what_a_file_says_of_its_model_is_one_short_line(tmp_path, new, generate) -> None:
    """A manifest is written by anybody."""
    generate(new(sd_model_hash="aaaa", sd_model_name="x"), SAVE)
    forged = Forged.of(tmp_path / "hero.safetensors")
    forged.manifest["model"] = "<script>\nline two " + "x" * 10**6
    forged.manifest["with"] |= {"VAE": "a\nb\u202e" + "y" * 10**6, "networks": ["l\n1"] * 10**4,
                                "HyperTile": {"a": "\n"}, "CLIP skip": [["\ud800" * 10**4]] * 3}
    forged.write(tmp_path / "hero.safetensors")
    p = new(sd_model_hash="bbbb")
    generate(p, USE, "nurse")
    for said in (p.extra_generation_params[NOTE], p.comments[-1]):
        assert "another checkpoint, <script> line two xxx" in said and "VAE a b yyy" in said
        assert said.isprintable() and len(said) < 800


@pytest.mark.parametrize("now, replayed", [
    ({}, 1), ({"override_settings": {"token_merging_ratio": 0.5}}, 2),
    ({"override_settings": {"sd_hypernetwork": "anime"}}, 2),
    ({"override_settings": {"CLIP_stop_at_last_layers": 2}}, 1),
])
def test_what_acts_inside_the_model_makes_another_replay(program, new, generate, now, replayed) -> None:
    """But not what only the prompt goes through: its conditioning is in the trajectory."""
    generate(new(), TINY)
    generate(new(), USE, "nurse")
    generate(new(**now), USE, "nurse")
    assert len(program.shelf.replays._kept) == replayed


def test_other_networks_in_the_hires_prompt_are_another_replay(program, new, generate) -> None:
    generate(new(), TINY)
    replays = program.shelf.replays._kept
    for name in ("hat", "hat", "scarf"):
        generate(new(hr_extra_network_data={"lora": [SimpleNamespace(items=[name])]}), USE, "nurse")
    assert len(replays) == 2


def test_only_the_recorded_picture_of_a_batch_says_that_it_was_saved(new, generate) -> None:
    p = new(batch_size=2)
    generate(p, SAVE)
    value = p.extra_generation_params["RefDrop reference"]
    assert value == "hero" and value(index=0, p=p) == "hero" and value(index=1, p=p) is None


def test_an_interrupt_during_a_replay_is_an_interrupt(program, new, generate) -> None:
    generate(new(), TINY)
    p, run = new(), None
    runs.start(p, USE, program.host, program.shelf)
    run = runs.run_of(p)
    run.check()
    run.begin_batch(0)
    run.begin_pass()
    program.host.state.interrupted = True  # the user, while the first model call replays
    from tests.hosts.tiny import sample_a1111
    sample_a1111(p, [["nurse"]])
    run.end_batch()
    run.finish()
    assert PROBLEM not in p.extra_generation_params and not hasattr(p, "refdrop_stopped")
    assert "interrupted" in p.comments[-1] and program.host.state.textinfo is None


def test_a_library_that_cannot_be_reached_leaves_a_shelf_that_says_so(program, monkeypatch) -> None:
    def unreachable(place):
        raise StoreProblem("The shared library s3://bucket cannot be reached; check the connection.")

    monkeypatch.setattr("lib_refdrop.webui.shelf.open_store", unreachable)
    shelf = Shelf(program.host)
    assert shelf.names("Disk") == [] and "cannot be reached" in shelf.summary("Disk")
    assert shelf.summary("RAM") == "No references in memory."


def test_the_field_follows_a_save_that_was_given_a_number(program, new, generate) -> None:
    for _ in range(2):
        generate(new(), SAVE)
    assert program.shelf.saved == ("Disk", "hero", "hero-2")


def test_the_terminal_has_one_line_for_what_was_done(new, generate, caplog, monkeypatch) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.INFO, "RefDrop"):
        generate(new(), SAVE)
        generate(new(), USE, "nurse")
        generate(new(), [{**USE[0], "reference": "nobody"}])
    lines = [record.getMessage() for record in caplog.records]
    for words in ("Saved reference 'hero'", "Guided by 'hero' at 0.5", "There is no reference 'nobody'"):
        assert len([line for line in lines if words in line]) == 1
    assert not any(line.startswith("RefDrop:") for line in lines)  # the formatter says whose line it is


def test_lines_reach_a_terminal_that_hosts_keep_for_warnings(monkeypatch, capsys) -> None:
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    set_up_log()
    set_up_log()
    logger.info("Saved reference 'hero'.")
    assert capsys.readouterr().err.count("RefDrop: Saved reference 'hero'.") == 1


def test_an_axis_switches_refdrop_on_and_a_cell_says_why_it_is_plain(program, new, generate) -> None:
    p = new()
    xyz._apply("rfg", p, 0.25, [])
    generate(p, [False, 0.9, "Use"])  # off in the panel
    assert "There is no reference" in p.extra_generation_params[PROBLEM]
    program.host.state.begin("the next request")
    generate(new(), SAVE)
    p = new()
    xyz._apply("rfg", p, 0.25, [])
    generate(p, [False], "nurse")
    assert p.extra_generation_params["RefDrop RFG"] == 0.25


def test_the_first_problem_is_the_one_that_is_told(new, generate) -> None:
    p = new()
    generate(p, USE)
    first = p.refdrop_stopped
    from lib_refdrop.webui.messages import stop
    stop(p, StoreProblem("second"), SimpleNamespace(state=SimpleNamespace(interrupt=lambda: None)))
    assert p.refdrop_stopped is first


def test_all_layers_off_is_refused_as_every_other_setting(new, generate) -> None:
    p = new()
    assert generate(p, [{**USE[0], "layer_input": False, "layer_middle": False, "layer_output": False}]) is None
    assert "layers are off" in p.extra_generation_params[PROBLEM] and "layers are off" in str(p.refdrop_stopped)


def test_a_fault_of_ours_in_a_hook_stops_and_says_so(tmp_path, monkeypatch) -> None:
    from lib_refdrop.webui import script

    program = Program(tmp_path)
    made = script.script_class(program.host, program.shelf)()
    monkeypatch.setattr(script, "start", lambda *args: 1 / 0)
    p = program.new()
    made.before_process(p, *USE)
    assert program.host.state.interrupted and "ZeroDivisionError" in p.extra_generation_params[PROBLEM]


MPS = "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.\nUse float32."


@pytest.mark.parametrize("place", ["lib_refdrop.techniques.reference.guidance.Guidance.call",
                                   "lib_refdrop.techniques.reference.guidance.Guidance.attention",
                                   "lib_refdrop.hosts.a1111.A1111Attachment.call",
                                   "lib_refdrop.hosts.a1111.SigmaClock",
                                   "lib_refdrop.hosts.a1111.A1111Adapter.sigmas",
                                   "lib_refdrop.webui.use_task.UseTask.open",
                                   "lib_refdrop.webui.use_task.differences"])
@pytest.mark.parametrize("on_problem", ["Stop", "Continue"])
def test_an_error_of_somebody_elses_is_told_as_itself(program, new, generate, monkeypatch, caplog, place,
                                                      on_problem) -> None:
    generate(new(), SAVE)
    plain = generate(new(), [False], "nurse")

    def fails(*args, **more):
        raise TypeError(MPS)

    monkeypatch.setattr(place, fails)
    p = new()
    made = generate(p, [{**USE[0], "on_problem": on_problem}], "nurse")
    said = p.extra_generation_params[PROBLEM]
    assert "TypeError: Cannot convert a MPS Tensor" in said and "\n" not in said and p.comments[-1] == said
    assert "RefDrop RFG" not in p.extra_generation_params
    assert program.host.state.interrupted == (on_problem == "Stop")
    assert any(record.exc_info for record in caplog.records)  # whole, for whoever is to mend it
    if on_problem == "Continue" and "differences" not in place:
        assert torch.equal(made, plain)
    unet = p.sd_model.model.diffusion_model
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


def test_progress_is_short_beside_what_the_host_says(program, new, generate) -> None:
    said = []
    p = new()
    runs.start(p, SAVE, program.host, program.shelf)
    runs.run_of(p).check()
    said.append(program.host.state.textinfo)
    assert said[0].startswith("Saving ") and len(said[0]) < 20 and "\n" not in said[0]


def test_remembered_pictures_do_not_stop_anything(program, new, generate, monkeypatch) -> None:
    program.host.opts.data |= {options.REMEMBER: True}
    program.shelf.memory.budget.limit = 1  # no room at all
    p = new()
    assert generate(p, [False]) is not None and PROBLEM not in p.extra_generation_params


def test_a_save_says_so_where_fewer_noise_levels_are_kept_than_serve_well(new, generate, monkeypatch) -> None:
    p = new(steps=5)
    generate(p, [{**SAVE[0], "keep": "Balanced"}])
    assert NOTE not in p.extra_generation_params
    monkeypatch.setattr("lib_refdrop.references.plan.served_well", lambda steps: steps)
    p = new(steps=5)
    generate(p, [{**SAVE[0], "keep": "Balanced"}])
    assert p.extra_generation_params[NOTE].startswith("3 noise levels serve 5 steps less well than 5 do")
    assert p.extra_generation_params[NOTE] in p.comments[-1]


def test_a_copy_that_failed_after_it_was_sampled_makes_no_later_one_plain(new, generate) -> None:
    """A detailer, an upscaler or a full disk ends one cell of a plot; the next is another copy of the same object."""
    generate(new(), SAVE)
    p = new(override_settings={})

    def fail(p) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        generate(copy.copy(p), USE, "nurse", inside=fail)
    second = copy.copy(p)
    generate(second, USE, "nurse")
    assert second.extra_generation_params["RefDrop RFG"] == 0.5


@pytest.mark.parametrize("allowed", [False, True])
def test_a_detailer_that_tells_scripts_of_copies_leaves_the_outer_run_as_it_is(program, new, generate, allowed) -> None:
    """ADetailer calls ``postprocess`` on a copy before the first picture's details, ``before_process`` and ``process``
    on another after the last's, and draws neither."""
    program.host.opts.data[options.INNER_PASSES] = allowed
    generate(new(), SAVE)
    detail = new(_ad_inner=True, override_settings={})

    def details(p) -> None:
        run = runs.run_of(p)
        told = copy.copy(p)
        assert runs.run_of(told) is None
        generate(detail, USE, "king")
        assert program.shelf.running() is run
        told = copy.copy(p)
        runs.start(told, USE, program.host, program.shelf)

    p = new(override_settings={})
    generate(p, USE, "nurse", inside=details)
    assert program.shelf.running() is None and ("RefDrop RFG" in detail.extra_generation_params) == allowed
    assert ("ran without RefDrop" in p.comments[-1]) != allowed
    assert p.extra_generation_params["RefDrop RFG"] == 0.5
    p.close()
