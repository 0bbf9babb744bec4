"""The page's controls, by the name of the request's field that each one fills."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .payload import IMG2IMG, TXT2IMG
from .pictures import UPSCALERS
from .sampling import catalogue
from .sampling.levels import SCHEDULES


def sampling_controls(tab: str, size: int) -> dict[str, Any]:
    """How to draw; ``size`` is the model's own, in pixels."""
    made: dict[str, Any] = {}
    with gr.Row():
        made["sampler_name"] = gr.Dropdown(label="Sampling method", value="Euler", elem_id=f"{tab}_sampling",
                                           choices=[sampler.name for sampler in catalogue.SAMPLERS])
        made["scheduler"] = gr.Dropdown(label="Schedule type", value="Automatic", elem_id=f"{tab}_scheduler",
                                        choices=["Automatic", *SCHEDULES])
        made["steps"] = _slider(tab, "steps", "Sampling steps", 1)
    with gr.Row():
        made["width"] = _slider(tab, "width", "Width", 8, size)
        made["height"] = _slider(tab, "height", "Height", 8, size)
    with gr.Row():
        made["cfg_scale"] = _slider(tab, "cfg_scale", "CFG scale", 0.5)
        made["batch_size"] = _slider(tab, "batch_size", "Batch size", 1)
        made["n_iter"] = _slider(tab, "n_iter", "Batch count", 1)
        made["seed"] = gr.Number(label="Seed (−1: random)", value=-1, precision=0, elem_id=f"{tab}_seed")
    return made


def second_pass_controls() -> dict[str, Any]:
    made: dict[str, Any] = {}
    with gr.Accordion("Hires. fix", open=False, elem_id="txt2img_hr"):
        made["enable_hr"] = gr.Checkbox(label="Draw a second, larger pass", elem_id="txt2img_enable_hr")
        with gr.Row():
            made["hr_upscaler"] = gr.Dropdown(label="Upscaler", value="Latent", choices=list(UPSCALERS),
                                              elem_id="txt2img_hr_upscaler")
            made["hr_scale"] = _slider("txt2img", "hr_scale", "Upscale by", 0.05)
        with gr.Row():
            made["hr_second_pass_steps"] = _slider("txt2img", "hr_second_pass_steps", "Hires steps (0: as above)", 1)
            made["denoising_strength"] = _slider("txt2img", "denoising_strength", "Denoising strength", 0.01)
    return made


def image_controls() -> dict[str, Any]:
    made: dict[str, Any] = {}
    with gr.Row():
        made["init_images"] = gr.Image(label="Picture to begin from", type="pil", elem_id="img2img_image")
        made["mask"] = gr.Image(label="Mask: what is white is drawn again (empty: everything)", type="pil",
                                elem_id="img2img_mask")
    with gr.Row():
        made["denoising_strength"] = _slider("img2img", "denoising_strength", "Denoising strength", 0.01)
        made["mask_blur"] = _slider("img2img", "mask_blur", "Mask blur", 1)
    return made


def _slider(tab: str, name: str, label: str, step: float, value: float | None = None) -> Any:
    field = (TXT2IMG if tab == "txt2img" else IMG2IMG)[name]
    return gr.Slider(minimum=field.least, maximum=field.most, step=step, label=label, elem_id=f"{tab}_{name}",
                     value=field.default if value is None else value)
