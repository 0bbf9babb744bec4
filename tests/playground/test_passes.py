"""Second passes, pictures to begin from, masks, variations, and settings that come with a request."""

from __future__ import annotations

import base64
import io
import threading

import numpy as np
import pytest
from PIL import Image

from lib_refdrop.playground import scripts

SIZE = 128


def sent(picture) -> str:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def box(*corners) -> Image.Image:
    mask = Image.new("L", (SIZE, SIZE))
    mask.paste(255, corners)
    return mask


def mean(one, other) -> float:
    return float(np.abs(one.astype(int) - other).mean())


class Calls:
    """The latents' sizes of every model call."""

    def __init__(self, studio):
        self.sizes: list[tuple[int, ...]] = []
        self._unet = studio.playground.model.pipeline.unet

    def __enter__(self):
        self._handle = self._unet.register_forward_pre_hook(
            lambda module, args: self.sizes.append(tuple(args[0].shape[-2:]))
        )
        return self

    def __exit__(self, *exception):
        self._handle.remove()


@pytest.mark.parametrize("upscaler", ["Latent", "Latent (nearest-exact)", "Lanczos", "Nearest", "None"])
def test_a_second_pass_is_larger_and_still_the_picture(studio, upscaler):
    first = studio.draw(steps=10)
    with Calls(studio) as calls:
        made = studio.draw(steps=10, enable_hr=True, hr_scale=1.5, hr_upscaler=upscaler, denoising_strength=0.1,
                           hr_second_pass_steps=4)
    assert made.pictures[0].shape == (192, 192, 3)
    assert calls.sizes == [(16, 16)] * 10 + [(24, 24)] * 4
    small = np.asarray(Image.fromarray(made.pictures[0]).resize((SIZE, SIZE), Image.LANCZOS))
    assert mean(small, first.pictures[0]) < mean(small, studio.draw(seed=6, steps=10).pictures[0]) * 2 / 3
    assert f"Hires upscaler: {upscaler}" in made.parameters[0] and "Denoising strength: 0.1" in made.parameters[0]


def test_a_second_pass_has_its_own_size_prompt_sampler_and_scale(studio):
    plain = dict(steps=4, enable_hr=True, hr_resize_x=160, hr_resize_y=96)
    one = studio.draw(**plain)
    assert one.pictures[0].shape == (96, 160, 3)
    for change in ({"hr_prompt": "a wizard on snow"}, {"hr_negative_prompt": "grass"}, {"hr_cfg": 2.0},
                   {"hr_sampler_name": "DPM++ 2M"}, {"hr_scheduler": "Karras"}):
        assert mean(studio.draw(**plain, **change).pictures[0], one.pictures[0]) > 0.1, change
    one_side = studio.draw(steps=2, enable_hr=True, hr_resize_x=160)
    assert one_side.pictures[0].shape == (160, 160, 3)


def test_at_strength_zero_a_second_pass_only_enlarges(studio):
    with Calls(studio) as calls:
        studio.draw(steps=3, enable_hr=True, denoising_strength=0)
    assert calls.sizes == [(16, 16)] * 3


class Told(scripts.Script):
    """Notes its hooks, and whether a second pass was running."""

    told: list = []

    def title(self):
        return "Told"

    def show(self, is_img2img):
        return scripts.AlwaysVisible


def _noting(hook):
    def note(self, p, *args, **kwargs):
        self.told.append((hook, p.is_hr_pass))
    return note


for _hook in scripts.HOOKS:
    setattr(Told, _hook, _noting(_hook))


@pytest.fixture
def told(studio):
    """Hooks of the next generations."""
    playground, before = studio.playground, studio.playground.runners
    Told.told = []
    playground.runners = {tab: scripts.ScriptRunner([Told], tab == "img2img") for tab in before}
    yield Told.told
    playground.runners = before


BEGIN = ["setup", "before_process", "process"]
BATCH = ["before_process_batch", "after_extra_networks_activate", "process_batch"]
END = [
    "post_sample",
    "postprocess_batch",
    "postprocess_batch_list",
    "postprocess_image",
    "postprocess_image_after_composite",
]


def test_hooks_are_called_in_the_order_of_web_uis(studio, told):
    studio.draw(n_iter=2, steps=2)
    assert [hook for hook, _ in told] == [*BEGIN, *[*BATCH, "process_before_every_sampling", *END] * 2, "postprocess"]
    assert not any(second for _, second in told)


def test_the_second_pass_is_told_as_one(studio, told):
    studio.draw(steps=2, enable_hr=True)
    assert [hook for hook, second in told if second] == ["after_extra_networks_activate", "before_hr",
                                                         "process_before_every_sampling"]
    assert [hook for hook, _ in told].count("process_before_every_sampling") == 2


def test_inpainting_is_told_of_its_mask(studio, told):
    studio.draw_from(studio.draw(steps=2).pictures[0], steps=2, mask=sent(box(30, 30, 90, 90)))
    hooks = [hook for hook, _ in told]
    assert hooks[-4:] == [
        "postprocess_image",
        "postprocess_maskoverlay",
        "postprocess_image_after_composite",
        "postprocess",
    ]


def test_the_stronger_the_further_from_the_picture(studio):
    before = studio.draw(steps=8).pictures[0]
    apart = [
        mean(
            studio.draw_from(before, prompt="a wizard waving on snow", denoising_strength=strength, steps=8).pictures[
                0
            ],
            before,
        )
        for strength in (0.1, 0.5, 1.0)
    ]
    assert apart[0] < apart[1] < apart[2] and apart[0] < 10


@pytest.mark.parametrize(
    "strength, exactly, calls", [(0.4, False, 3), (0.4, True, 5), (1.0, False, 5), (0.0, False, 1)]
)
def test_how_many_steps_a_strength_makes(studio, strength, exactly, calls):
    """Of 5: 0.4 makes two and one more, as in web UIs; with their option exactly five."""
    before = studio.draw(steps=2).pictures[0]
    with Calls(studio) as counted:
        studio.draw_from(before, steps=5, denoising_strength=strength, override_settings={"img2img_fix_steps": exactly})
    assert len(counted.sizes) == calls


def test_a_picture_of_another_size_is_made_to_fit(studio):
    wide = Image.new("RGB", (256, 128), "red")
    wide.paste("blue", (64, 0, 192, 128))
    stretched, cut = (studio.draw_from(np.asarray(wide), width=128, height=128, denoising_strength=0.0, steps=2,
                                       resize_mode=mode).pictures[0] for mode in (0, 1))
    assert stretched[64, 8, 0] > 128 > cut[64, 8, 0]  # the red edges go where it is cut
    assert studio.draw_from(np.asarray(wide), steps=2).pictures[0].shape == (128, 256, 3)


@pytest.mark.parametrize("fill", [0, 1, 2, 3])
@pytest.mark.parametrize("sampler", ["Euler a", "DDIM"])
def test_outside_its_mask_a_picture_stays_to_the_pixel(studio, fill, sampler):
    before = studio.draw(steps=8).pictures[0]
    made = studio.draw_from(before, prompt="a wizard waving on snow", mask=sent(box(40, 40, 88, 88)), mask_blur=0,
                            inpainting_fill=fill, denoising_strength=0.9, sampler_name=sampler).pictures[0]
    inside = np.zeros((SIZE, SIZE), bool)
    inside[40:88, 40:88] = True
    assert np.array_equal(made[~inside], before[~inside]) and mean(made[inside], before[inside]) > 3


def test_a_mask_can_be_turned_round(studio):
    before = studio.draw(steps=8).pictures[0]
    made = studio.draw_from(before, prompt="a wizard waving on snow", mask=sent(box(40, 40, 88, 88)), mask_blur=0,
                            inpainting_mask_invert=1).pictures[0]
    assert np.array_equal(made[40:88, 40:88], before[40:88, 40:88]) and mean(made, before) > 3


@pytest.mark.parametrize("payload, word", [
    ({}, "init_images"), ({"init_images": []}, "init_images"), ({"init_images": ["no picture"]}, "base64"),
    ({"init_images": [sent(box(0, 0, 9, 9))] * 3}, "as many as batch_size"), ({"init_images": "x"}, "list"),
    ({"init_images": [sent(box(0, 0, 9, 9))], "inpaint_full_res": True}, "inpaint_full_res"),
    ({"init_images": [sent(box(0, 0, 9, 9))], "mask": "rubbish"}, "mask"),
    ({"init_images": [sent(box(0, 0, 9, 9))], "inpainting_fill": 7}, "inpainting_fill"),
])
def test_what_cannot_be_begun_from_gets_a_sentence(studio, payload, word):
    problem = studio.refusal(None, tab="img2img", **payload)
    assert problem.status == 422 and word in str(problem)


def test_a_variation_of_full_strength_is_the_other_seeds_picture(studio):
    plain, other = studio.draw(seed=5).pictures[0], studio.draw(seed=9).pictures[0]
    assert mean(studio.draw(seed=5, subseed=9, subseed_strength=1.0).pictures[0], other) < 0.5
    near = studio.draw(seed=5, subseed=9, subseed_strength=0.1)
    assert 0.1 < mean(near.pictures[0], plain) < mean(other, plain)
    assert "Variation seed: 9, Variation seed strength: 0.1" in near.parameters[0]


def test_variations_of_a_batch_have_one_seed_and_many_subseeds(studio):
    made = studio.draw(seed=5, subseed=9, subseed_strength=0.3, batch_size=2)
    assert made.info["all_seeds"] == [5, 5] and made.info["all_subseeds"] == [9, 10]


def test_settings_of_a_request_hold_for_that_request(studio):
    plain = studio.draw().pictures[0]
    skipped = studio.draw(override_settings={"CLIP_stop_at_last_layers": 2})
    assert mean(skipped.pictures[0], plain) > 1 and "Clip skip: 2" in skipped.parameters[0]
    assert np.array_equal(studio.draw().pictures[0], plain)
    studio.draw(override_settings={"CLIP_stop_at_last_layers": 2}, override_settings_restore_afterwards=False)
    try:
        assert np.array_equal(studio.draw().pictures[0], skipped.pictures[0])
    finally:
        studio.playground.set_options({"CLIP_stop_at_last_layers": 1})


def test_settings_of_a_request_are_put_back_after_a_fault(studio):
    studio.refusal({"mode": "Use", "reference": "none"}, override_settings={"CLIP_stop_at_last_layers": 2})
    assert studio.playground.options()["CLIP_stop_at_last_layers"] == 1


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"magic": 1}, "no option named 'magic'"),
        ({"CLIP_stop_at_last_layers": 0}, "from 1 to 12"),
        ([1], "must be an object"),
        ({"sd_model_checkpoint": "another"}, "--model"),
        ({"s_min_uncond": float("nan")}, "from 0 to 15"),
    ],
)
def test_settings_of_a_request_that_cannot_be(studio, changes, word):
    problem = studio.refusal(None, override_settings=changes)
    assert problem.status == 422 and word in str(problem)


def test_a_pictures_parameters_make_it_again(studio):
    studio.save("hero")
    made = studio.draw(
        {"reference": "hero", "rfg": 0.4},
        seed=8,
        steps=6,
        sampler_name="DPM++ 2M",
        cfg_scale=5.5,
        negative_prompt="snow: white, cold",
        width=96,
        enable_hr=True,
        hr_scale=1.5,
        denoising_strength=0.6,
        hr_prompt="a wizard",
        subseed=3,
        subseed_strength=0.2,
    )
    again = studio.playground.txt2img({"infotext": made.parameters[0]})
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(again["images"][0]))))
    assert np.array_equal(picture, made.pictures[0])


def test_a_guided_pictures_parameters_make_it_again(studio):
    """By the reference it names, though another is newer, and somebody has asked what scripts take."""
    for name, seed in (("hero", 1), ("newer", 2)):
        studio.draw({"mode": "Save", "reference": name}, seed=seed)
    made = studio.draw({"mode": "Use", "reference": "hero", "rfg": 0.45}, seed=8)
    studio.playground.script_info()
    again = studio.playground.txt2img({"infotext": made.parameters[0]})
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(again["images"][0]))))
    assert "RefDrop reference: hero" in made.parameters[0] and np.array_equal(picture, made.pictures[0])


def test_what_a_request_names_itself_wins_over_its_infotext(studio):
    made = studio.draw(seed=8)
    other = studio.playground.txt2img({"infotext": made.parameters[0], "seed": 9})
    assert '"seed": 9' in other["info"] and '"steps": 4' in other["info"]


@pytest.mark.parametrize("text", ["Steps: 4000, Sampler: Euler, Seed: 1", "a\nSteps: 4, Sampler: Magic, Seed: 1",
                                  "a\nSteps: \\, Seed: \x00, Size: 1x1"])
def test_an_infotext_that_cannot_be_is_a_sentence(studio, text):
    assert studio.refusal(None, prompt=None, seed=None, steps=None, infotext=text).status == 422


def test_two_clients_at_once_get_what_they_would_one_by_one(studio):
    studio.save("hero")
    wanted = [({"reference": "hero", "rfg": 0.5}, {"seed": 1, "prompt": "a [pirate|king] on snow"}),
              (None, {"seed": 2, "steps": 6, "override_settings": {"CLIP_stop_at_last_layers": 2}}),
              ({"mode": "Save", "reference": "other"}, {"seed": 3, "batch_size": 2})]
    alone = [studio.draw(settings, **payload).pictures[0] for settings, payload in wanted]
    made: dict[int, np.ndarray] = {}

    def client(index: int) -> None:
        made[index] = studio.draw(wanted[index % 3][0], **wanted[index % 3][1]).pictures[0]

    threads = [threading.Thread(target=client, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert all(np.array_equal(made[index], alone[index % 3]) for index in range(6))
