"""Any picture as a reference, through the script and the API, on the bundled model."""

from __future__ import annotations

import base64
import io
import logging
import random
import re

import numpy as np
import pytest
import torch
from demo.characters import Character, draw
from demo.reader import MODEL, Reader
from PIL import Image

from lib_refdrop.model.rows import COND, UNCOND, Kind
from lib_refdrop.stores import DiskStore

from .test_promises import furthest

HERO = Character("wizard", "up", "snow", "green", "orange", "blond", "long", "dark", "mint")
NAMED = Kind(COND), Kind(UNCOND)
SMALL = {"width": 64, "height": 64}


def text_of(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="session")
def drawing() -> Image.Image:
    """No model's work: drawn with a pen."""
    return draw(HERO, random.Random(4))


@pytest.fixture
def save(studio, drawing):
    """Saves the drawing, or another picture."""
    def save(name: str = "hero", tab: str = "txt2img", picture: Image.Image = drawing, payload: dict | None = None,
             **settings):
        settings = {"mode": "Save", "reference": name, "picture": text_of(picture), **settings}
        return studio.draw(settings, tab, **(payload or {}))

    return save


def kept(studio, name: str = "hero"):
    return DiskStore(studio.playground.refdrop_dir).load(name)


def latent_of(studio, image: Image.Image) -> torch.Tensor:
    """What the VAE makes of a picture, by its own calls."""
    vae = studio.playground.model.pipeline.vae
    numbers = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)[None]
    with torch.no_grad():
        return vae.encode(numbers / 127.5 - 1).latent_dist.mean[0] * vae.config.scaling_factor


def test_what_is_kept_is_the_picture_noised_to_the_level_of_each_call(studio, save, drawing) -> None:
    studio.draw({"mode": "Save", "reference": "drawn", "keep": "Tiny"})
    save(keep="Tiny", picture_seed=11)
    drawn, hero = kept(studio, "drawn"), kept(studio)
    noise = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(11))
    assert hero.passes["base"].calls == drawn.passes["base"].calls and len(hero.passes["base"].calls) == 4
    for index, (sigma, _) in enumerate(hero.passes["base"].calls):
        for kind in NAMED:
            ours, theirs = (each.inputs("base", index, kind) for each in (hero, drawn))
            wanted = (latent_of(studio, drawing) + sigma * noise) / (1 + sigma**2) ** 0.5
            assert torch.allclose(ours["x"], wanted, atol=1e-5) and ours["x"].dtype == theirs["x"].dtype
            assert ours["t"] == theirs["t"] and torch.equal(ours["context"], theirs["context"])


@pytest.mark.parametrize("keep", ["Exact", "Balanced", "Tiny"])
def test_the_picture_that_is_drawn_is_the_plain_one(studio, save, keep) -> None:
    plain, made = studio.draw(batch_size=2, **SMALL), save(keep=keep, payload={"batch_size": 2, **SMALL})
    assert all(np.array_equal(one, other) for one, other in zip(plain.pictures, made.pictures))
    assert "Saved reference 'hero' from a picture" in made.comments
    assert re.search(r"RefDrop picture: [0-9a-f]{10}, RefDrop picture seed: 0,", made.parameters[0])
    assert "RefDrop" not in made.parameters[1].replace("RefDrop playground", "")
    found = re.search(r"RefDrop picture: (\w+)", made.parameters[0]).group(1)
    assert kept(studio).manifest["picture"] == {"hash": found, "seed": 0}
    assert kept(studio).manifest["prompt"] == "a pirate arms up on grass"


def test_features_kept_at_once_are_those_of_a_replay(studio, save) -> None:
    save("exact", keep="Exact")
    save("tiny", keep="Tiny")
    exact, tiny = (studio.draw({"reference": name, "rfg": 0.5}, seed=8) for name in ("exact", "tiny"))
    assert "throughout" in exact.comments and furthest(exact.pictures[0], tiny.pictures[0]) <= 1
    assert furthest(exact.pictures[0], studio.draw(seed=8).pictures[0]) > 20


def test_a_run_that_is_at_the_picture_itself_finds_its_own_features(studio, save, drawing) -> None:
    """img2img begins with the picture and the noise of its seed: at its only call the model is called on what the
    reference was made of, so guidance changes nothing; with other noise it does."""
    payload = {"init_images": [text_of(drawing)], "steps": 1, "denoising_strength": 0.7, "seed": 11,
               "width": 128, "height": 128}
    for name, seed in (("hero", 11), ("stranger", 12)):
        save(name, "img2img", payload=payload, keep="Exact", picture_seed=seed)
    assert [len(kept(studio, name).passes["base"].calls) for name in ("hero", "stranger")] == [1, 1]
    plain = studio.draw(None, "img2img", **payload).pictures[0]
    own, other = (studio.draw({"reference": name, "rfg": 0.9}, "img2img", **payload).pictures[0]
                  for name in ("hero", "stranger"))
    assert furthest(own, plain) <= 1 < furthest(other, plain)


def test_it_guides_towards_what_the_picture_shows(studio, save, drawing) -> None:
    save(payload={"prompt": "a wizard arms up on snow", "steps": 8})
    reader = Reader.load(MODEL)
    assert reader.read([drawing])[0] == HERO.attributes()
    agreement = {}
    for c in (0, 0.6):
        payload = {"prompt": "a wizard arms down on sand", "steps": 8, "cfg_scale": 4}
        pictures = [studio.draw({"reference": "hero", "rfg": c}, seed=seed, **payload).pictures[0]
                    for seed in range(30, 36)]
        read = reader.read([Image.fromarray(picture) for picture in pictures])
        agreement[c] = np.mean([found[name] == getattr(HERO, name) for found in read
                                for name in ("shirt", "trousers", "hair", "skin", "sky")])
    assert agreement[0.6] > agreement[0] + 0.15, agreement


def test_another_shape_keeps_the_pictures_shape_at_the_generations_area(studio, save, drawing) -> None:
    wide = Image.new("RGB", (300, 150), (9, 99, 199))
    save(picture=wide, keep="Tiny")
    assert kept(studio).latent_size("base") == (12, 22)  # 264 of 256 cells; the model halves each side once
    save("as features", picture=wide, keep="Balanced")
    for name in ("hero", "as features"):
        assert "throughout" in studio.draw({"reference": name}, seed=8, **SMALL).comments


def test_a_second_pass_keeps_it_at_its_own_size(studio, save, drawing) -> None:
    second = {"enable_hr": True, "hr_scale": 1.5, "hr_second_pass_steps": 3, "denoising_strength": 0.6}
    save(enabled_hr=True, keep="Tiny", payload=second)
    hero = kept(studio)
    assert (hero.latent_size("base"), hero.latent_size("hires")) == ((16, 16), (24, 24))
    larger = drawing.resize((192, 192), Image.Resampling.LANCZOS)
    noise = torch.randn(4, 24, 24, generator=torch.Generator().manual_seed(0))
    sigma = hero.passes["hires"].calls[-1].sigma
    wanted = (latent_of(studio, larger) + sigma * noise) / (1 + sigma**2) ** 0.5
    assert torch.allclose(hero.inputs("hires", 2, NAMED[0])["x"], wanted, atol=1e-2)
    assert "throughout" in studio.draw({"reference": "hero", "enabled_hr": True}, seed=8, **second).comments


@pytest.mark.parametrize("payload, kinds, calls", [
    ({"sampler_name": "Heun"}, 2, 4), ({"sampler_name": "DPM++ SDE"}, 2, 7), ({"cfg_scale": 1}, 1, 4),
    ({"prompt": "a pirate AND a wizard"}, 3, 4), ({"prompt": ""}, 2, 4), ({"batch_size": 2}, 2, 4)], ids=str)
def test_every_kind_of_row_once_a_level(studio, save, payload, kinds, calls) -> None:
    payload = {**SMALL, **payload}
    save(keep="Exact", payload=payload)
    hero = kept(studio)
    assert len(hero.passes["base"].kept) == kinds
    assert {len(found) for found in hero.passes["base"].kept.values()} == {calls} == {len(hero.passes["base"].levels)}
    assert "throughout" in studio.draw({"reference": "hero"}, seed=8, **payload).comments


@pytest.mark.parametrize("sampler, settings", [
    ("Heun", {"keep": "Exact"}), ("Euler", {"keep": "Balanced"}), ("Heun", {"keep": "Tiny"}),
    ("Euler", {"budget": 0.2})])
def test_its_size_is_known_before(studio, save, settings, sampler, caplog) -> None:
    picture = Image.new("RGB", (200, 150), (9, 99, 199))
    with caplog.at_level(logging.INFO, "RefDrop"):
        save(picture=picture, payload={**SMALL, "sampler_name": sampler}, **settings)
    number, unit = re.search(r"RefDrop saves (?:about|at most) ([\d.]+) ([kM]B)", caplog.text).groups()
    size = (studio.playground.refdrop_dir / "hero.safetensors").stat().st_size
    assert size == pytest.approx(float(number) * {"kB": 1e3, "MB": 1e6}[unit], rel=0.02)
    assert size <= settings.get("budget", 100) * 1e6


@pytest.mark.parametrize("settings, word", [
    ({"picture": "no picture"}, "as base64 text"), ({"picture": base64.b64encode(b"GIF8 nothing").decode()}, "be read"),
    ({"picture": 3}, "base64 text"), ({"picture": text_of(Image.new("RGB", (9, 900)))}, "too slender"),
    ({"mode": "Use"}, "can be saved, not used"), ({"picture_seed": "x"}, "whole number"),
    ({"picture_by": "magic"}, "must be Noising or Inversion")])
def test_a_bad_picture_is_one_sentence_and_nothing_is_lost(studio, save, drawing, settings, word) -> None:
    save(payload=SMALL)
    before = (studio.playground.refdrop_dir / "hero.safetensors").read_bytes()
    problem = studio.refusal({"mode": "Save", "reference": "hero", "replace": True, "picture": text_of(drawing),
                              **settings})
    assert problem.status == 422 and word in str(problem) and "\n" not in str(problem)
    assert [path.name for path in studio.playground.refdrop_dir.iterdir() if path.suffix == ".safetensors"] == [
        "hero.safetensors"]
    assert (studio.playground.refdrop_dir / "hero.safetensors").read_bytes() == before
    assert "throughout" in studio.draw({"reference": "hero"}, seed=8, **SMALL).comments


def test_a_vae_that_gives_no_numbers_is_said(studio, save, monkeypatch) -> None:
    host = studio.playground.host
    monkeypatch.setattr(type(host), "encode", lambda self, p, pixels: torch.full((4, 8, 8), float("nan")))
    with pytest.raises(Exception, match="VAE made no numbers"):
        save(payload=SMALL)
    assert not list(studio.playground.refdrop_dir.glob("*.safetensors"))


def test_off_and_in_a_save_without_one_it_means_nothing(studio, save, drawing) -> None:
    assert np.array_equal(studio.draw({"enabled": False, "picture": "nonsense"}, **SMALL).pictures[0],
                          studio.draw(**SMALL).pictures[0])
    payload = {"init_images": [text_of(drawing)], **SMALL}
    studio.draw({"mode": "Save", "reference": "plain", "picture": ""}, "img2img", **payload)
    studio.draw({"mode": "Save", "reference": "none", "picture": None}, "img2img", **payload)
    one, other = (kept(studio, name) for name in ("plain", "none"))
    assert "picture" not in one.manifest and "picture" not in other.manifest
    assert all(torch.equal(one.features[name], other.features[name]) for name in one.features)


def back_down(studio, hero, image: Image.Image) -> float:
    """How far from the picture's latent Euler's method ends that begins at the noisiest latent kept, with the prompt
    alone; by the model's own calls."""
    unet, calls = studio.playground.model.pipeline.unet, hero.passes["base"].calls
    x = hero.inputs("base", 0, NAMED[0])["x"] * (1 + calls[0].sigma**2) ** 0.5
    for index, (sigma, _) in enumerate(calls):
        given = hero.inputs("base", index, NAMED[0])
        with torch.no_grad():
            v = unet(x[None] / (1 + sigma**2) ** 0.5, given["t"], given["context"][None])[0][0]
        below = calls[index + 1].sigma if index + 1 < len(calls) else 0.0
        noise = (sigma * x + (1 + sigma**2) ** 0.5 * v) / (1 + sigma**2)
        x = x + (below - sigma) * noise
    return float((x - latent_of(studio, image)).square().mean() ** 0.5)


def test_an_inversion_leads_from_noise_to_the_picture_itself(studio, save, drawing) -> None:
    """Noise that is only added leads elsewhere."""
    payload = {"steps": 12, "prompt": "a wizard arms up on snow"}
    assert studio.playground.model.pipeline.scheduler.config.prediction_type == "v_prediction"
    plain = studio.draw(**payload)
    save(keep="Tiny", payload=payload)
    added = back_down(studio, kept(studio), drawing)
    made = save("by model", keep="Tiny", payload=payload, picture_by="Inversion")
    assert np.array_equal(made.pictures[0], plain.pictures[0])
    assert "RefDrop picture by: Inversion" in made.parameters[0]
    hero = kept(studio, "by model")
    assert hero.manifest["picture"]["by"] == "Inversion" and len(hero.passes["base"].calls) == 12
    assert back_down(studio, hero, drawing) < added / 2


@pytest.mark.parametrize("payload, kinds, calls", [
    ({"sampler_name": "Heun"}, 2, 4), ({"sampler_name": "DPM++ SDE"}, 2, 7), ({"cfg_scale": 1}, 1, 4),
    ({"prompt": "a pirate AND a wizard", "batch_size": 2}, 3, 4)], ids=str)
def test_an_inversion_keeps_what_noising_does(studio, save, payload, kinds, calls) -> None:
    payload = {**SMALL, **payload}
    save(payload=payload, keep="Exact", picture_by="Inversion")
    hero = kept(studio)
    assert len(hero.passes["base"].kept) == kinds
    assert {len(found) for found in hero.passes["base"].kept.values()} == {calls} == {len(hero.passes["base"].levels)}
    save("again", payload=payload, keep="Tiny", picture_by="Inversion")
    features, trajectory = (studio.draw({"reference": name}, seed=8, **payload) for name in ("hero", "again"))
    assert furthest(features.pictures[0], trajectory.pictures[0]) <= 2 and "throughout" in features.comments


def test_an_inversion_that_cannot_be_is_a_sentence(studio, drawing) -> None:
    settings = {"mode": "Save", "picture": text_of(drawing), "picture_by": "Inversion"}
    problem = studio.refusal(settings, sampler_name="DPM adaptive", **SMALL)
    assert "those of DPM adaptive are not; choose another sampler" in str(problem) and "\n" not in str(problem)
    assert not list(studio.playground.refdrop_dir.glob("*.safetensors"))
