"""The script's class on a host: what of the page it listens to, and what it does when the page is loaded."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import gradio as gr
import pytest
import torch
from PIL import Image

from lib_refdrop.settings import Settings
from lib_refdrop.webui import script
from lib_refdrop.webui.forecast import INPUTS
from lib_refdrop.webui.host import WebUI
from lib_refdrop.words import StoreProblem


@pytest.fixture
def page(program):
    """A tab of a web UI's page in its order of components, as far as the script is told of them."""
    made = script.script_class(program.host, program.shelf)()
    made.is_img2img = False
    components = {}
    with gr.Blocks() as blocks:
        for name in INPUTS:
            components[name] = gr.Number(20, elem_id=f"txt2img_{name}")
        for component in components.values():
            made.after_component(component, elem_id=component.elem_id)
        made.ui(False)
        for name, kind in {"html_log": gr.HTML, "generation_info": gr.Textbox}.items():
            components[name] = kind(elem_id=f"{name}_txt2img")
            made.after_component(components[name], elem_id=components[name].elem_id)
    return blocks, components


def listened(blocks) -> dict[int, list]:
    """By component, what happens on its events."""
    found: dict[int, list] = {}
    for function in blocks.fns.values():
        for component, _ in function.targets:
            found.setdefault(component, []).append(function)
    return found


def test_it_listens_to_what_changes_once_a_generation_and_never_to_html(page) -> None:
    """HTML tells gradio 4.40 (Forge) of a change whenever it is drawn, so that a page asks for ever."""
    blocks, components = page
    events = listened(blocks)
    assert components["generation_info"]._id in events and components["html_log"]._id not in events
    assert not any(isinstance(blocks.blocks.get(component), gr.HTML) for component in events)


def named(blocks, name: str) -> list:
    """The component of that name in the panel."""
    return [each for each in blocks.blocks.values() if getattr(each, "elem_id", None) == f"refdrop_txt2img_{name}"]


def test_nothing_that_is_told_tells_itself_again(page) -> None:
    blocks, _ = page
    quiet = [each._id for each in named(blocks, "kept_masks")]  # see the test below
    for component, functions in listened(blocks).items():
        assert component in quiet or not any(
            component == output._id for function in functions for output in function.outputs)


def test_masks_by_number_go_where_they_are_seen_and_no_further(page, program) -> None:
    blocks, _ = page
    number = program.shelf.masks.keep(Image.new("L", (4, 6), 200))
    (text,) = named(blocks, "kept_masks")
    (show,) = listened(blocks)[text._id]
    assert [each.elem_id[16:] for each in show.outputs] == ["kept_masks", "mask", "reference_mask"]
    left, mask, other = show.fn(f"mask: {number}; reference mask: 0123456789")
    assert left == "reference mask: 0123456789" and "value" not in other
    assert mask["value"].size == (4, 6) and mask["value"].getpixel((0, 0)) == 200
    for given in (left, "", "half typ"):
        assert not any("value" in update for update in show.fn(given))


def test_the_list_is_filled_when_a_page_is_loaded(page, program) -> None:
    """Not when the program started: what was saved since is there after a reload, in both tabs."""
    blocks, _ = page
    (loaded,) = [each for each in blocks.blocks.values() if getattr(each, "elem_id", None) == "refdrop_txt2img_loaded"]
    assert any(event == "load" and function.outputs == [loaded] for function in blocks.fns.values()
               for _, event in function.targets)  # its value is computed anew
    program.generate(program.new(), [{"enabled": True, "mode": "Save", "reference": "hero"}])
    events = listened(blocks)[loaded._id]
    (refill,) = [function for function in events if len(function.inputs) == 1]
    (redraw,) = [function for function in events if function is not refill]
    assert [output.elem_id for output in redraw.outputs] == ["refdrop_txt2img_map"]
    said, *updates = refill.fn("Disk")
    assert all(update["choices"] == ["hero"] for update in updates) and "1 reference on disk" in said


def whole_page(program):
    """Both tabs, each in blocks of its own that come onto the page at the end, as web UIs build theirs; and the
    components that tell of a generation."""
    kind, interfaces, told = script.script_class(program.host, program.shelf), [], {}
    for tab in ("txt2img", "img2img"):
        made = kind()
        made.is_img2img = tab == "img2img"
        with gr.Blocks() as interface:
            made.ui(made.is_img2img)
            told[tab] = gr.Textbox(elem_id=f"generation_info_{tab}")
            made.after_component(told[tab], elem_id=told[tab].elem_id)
        interfaces.append(interface)
    with gr.Blocks() as blocks:
        for interface in interfaces:
            interface.render()
    return blocks, told


def test_each_tab_hears_of_the_others_generations(program) -> None:
    """The references are the same: what txt2img saved is in img2img's list without a reload."""
    blocks, told = whole_page(program)
    program.generate(program.new(), [{"enabled": True, "mode": "Save", "reference": "hero"}])
    for component in told.values():
        filled = {}
        for function in listened(blocks)[component._id]:
            update, said = function.fn("Disk", "")
            filled[function.outputs[0].elem_id] = update["choices"]
            assert "Saved reference" in said and "hero" in said
        assert filled == {"refdrop_txt2img_reference": ["hero"], "refdrop_img2img_reference": ["hero"]}


def test_a_page_with_a_hidden_tab_waits_for_nothing_that_is_not_there(program) -> None:
    program.host.opts.data["hidden_tabs"] = ["Img2img"]  # as Forge writes it
    blocks, told = whole_page(program)
    assert [len(listened(blocks)[component._id]) for component in told.values()] == [1, 1]


def test_a_panel_stands_whatever_the_library_says(program, monkeypatch) -> None:
    def unreachable(place):
        raise StoreProblem("The shared library s3://bucket cannot be reached; check the connection.")

    monkeypatch.setattr("lib_refdrop.webui.shelf.open_store", unreachable)
    made = script.script_class(program.host, program.shelf)()
    with gr.Blocks() as blocks:
        controls = made.ui(False)
    texts = [each.value for each in blocks.blocks.values() if isinstance(each, gr.HTML)]
    assert len(controls) == len(Settings.controls()) and any("cannot be reached" in str(text) for text in texts)


def test_everything_that_is_pasted_has_a_type_to_be_read_in(program) -> None:
    """AUTOMATIC1111's and Forge's ``type(component.value)(text)`` leaves a field without a value as it was."""
    made = script.script_class(program.host, program.shelf)()
    with gr.Blocks():
        made.ui(False)
    defaults = {name: type(default) for name, default, _ in Settings.controls()}
    pasted = {component.elem_id[len("refdrop_txt2img_"):]: type(component.value)
              for component, _ in made.infotext_fields if not isinstance(component, gr.Image)}
    for component, key in made.infotext_fields:  # a picture is no text: it goes, by an update that an API leaves out
        if isinstance(component, gr.Image):
            assert key({"Steps": "20"}) is None and key({"RefDrop mode": "Use"})["value"] is None
    assert pasted["reference"] is str and pasted == {name: defaults[name] for name in pasted}


def test_a_host_whose_model_is_not_there_yet_is_told_of(program) -> None:
    from lib_refdrop.webui.forecast import forecast

    here = {"steps": 20, "width": 512, "height": 512, "cfg_scale": 7.0, "sampler_name": "Euler"}
    assert "known with a model loaded" in forecast(program.host, [True, 0.3, "Save"], here)


def test_a_model_that_a_host_will_load_later_is_none(monkeypatch) -> None:
    """Forge and Neo put an object of this class in its place until something is drawn."""
    class FakeInitialModel:
        pass

    def module(name: str, **contents) -> ModuleType:
        made = ModuleType(name)
        vars(made).update(contents)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    parts = {name: module(f"modules.{name}", **contents) for name, contents in {
        "script_callbacks": {}, "shared": {"sd_model": "another"}, "scripts": {"Script": object, "AlwaysVisible": True},
        "sd_models": {"model_data": SimpleNamespace(sd_model=FakeInitialModel())}}.items()}
    module("modules", **parts)
    host = WebUI()
    assert host.loaded_model() is None
    parts["sd_models"].model_data.sd_model = "loaded"
    assert host.loaded_model() == "loaded"
    parts["sd_models"].model_data.sd_model = None  # asking for ``shared.sd_model`` would load one
    assert host.loaded_model() is None


def test_the_field_follows_a_save_once_and_only_of_its_name(program) -> None:
    from lib_refdrop.webui.shelf import Last

    made = script.script_class(program.host, program.shelf)()
    made.is_img2img = False
    with gr.Blocks():
        made.ui(False)
    refreshed = made._panel._refreshed
    program.shelf.saved = Last("Disk", "hero", "hero-2")
    assert refreshed("Disk", "hero.safetensors ")[0]["value"] == "hero-2"
    assert "value" not in refreshed("Disk", "hero")[0]  # asked for again: the older one is meant
    program.shelf.saved = Last("Disk", "hero", "hero-3")
    assert "value" not in refreshed("Disk", "king")[0]
    program.shelf.saved = Last("Disk", "", "pirate-5")
    assert "value" not in refreshed("Disk", None)[0] and "value" not in refreshed("Disk", "")[0]


def test_a_picture_switches_to_save_and_goes_when_it_is_to_be_used(page) -> None:
    blocks, _ = page
    by_id = {getattr(each, "elem_id", None): each for each in blocks.blocks.values()}
    mode, picture = by_id["refdrop_txt2img_mode"], by_id["refdrop_txt2img_picture"]
    events = [(event, function) for function in blocks.fns.values() for component, event in function.targets
              if component in (mode._id, picture._id)]
    (given,) = [function for event, function in events if event == "upload"]
    assert given.outputs == [mode] and given.fn() == "Save"
    (changed,) = [function for event, function in events if function.outputs == [picture]]
    assert changed.inputs == [mode] and changed.fn("Use")["value"] is None and "value" not in changed.fn("Save")


def test_the_forecast_does_not_send_pictures_around(page) -> None:
    blocks, _ = page
    pictures = [each for each in blocks.blocks.values() if isinstance(each, gr.Image)]
    assert [each.elem_id for each in pictures] == [
        f"refdrop_txt2img_{name}" for name in ("picture", "mask", "reference_mask")]
    assert all(each.type == "pil" and each.value is None for each in pictures)
    assert not any(each in function.inputs for each in pictures for function in blocks.fns.values())
    lines = [function for function in blocks.fns.values() if len(function.inputs) > 10]
    values = [True, 0.3, "Save", *[default for _, default, control in Settings.controls()[3:] if not control.picture]]
    said = lines[0].fn(*values, *[20] * (len(lines[0].inputs) - len(values)))
    assert "known with a model loaded" in said  # every setting is in its own place


def test_a_web_uis_vae_is_asked_whole_and_its_random_numbers_stay(monkeypatch) -> None:
    """It draws from its encoder's distribution by the generator that belongs to everybody."""
    asked = []

    def images_tensor_to_samples(image, approximation=None, model=None):
        asked.append((approximation, model))
        return image.mean() + torch.randn(len(image), 4, 8, 8)

    parts = {"modules.script_callbacks": {}, "modules.shared": {},
             "modules.scripts": {"Script": object, "AlwaysVisible": True},
             "modules.sd_samplers_common": {"images_tensor_to_samples": images_tensor_to_samples}}
    monkeypatch.setitem(sys.modules, "modules", ModuleType("modules"))
    for name, contents in parts.items():
        made = ModuleType(name)
        vars(made).update(contents)
        monkeypatch.setitem(sys.modules, name, made)
        monkeypatch.setattr(sys.modules["modules"], name.split(".")[1], made, raising=False)
    host, p, before = WebUI(), SimpleNamespace(sd_model="the model"), torch.get_rng_state()
    one, other = (host.encode(p, torch.zeros(1, 3, 64, 64)) for _ in range(2))
    assert one.shape == (4, 8, 8) and torch.equal(one, other) and asked == [(0, "the model")] * 2
    assert torch.equal(torch.get_rng_state(), before)
