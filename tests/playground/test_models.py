"""What ``--model`` takes, and what it says about the rest."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from export_ldm import export
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lib_refdrop.playground import DEFAULT_MODEL, ModelProblem, Playground
from lib_refdrop.playground.__main__ import main

from .conftest import Studio

ROOT = DEFAULT_MODEL.parents[1]


@pytest.mark.parametrize("make, word", [
    (lambda folder: folder / "missing", "no model"),
    (lambda folder: folder, "model_index.json"),
    (lambda folder: written(folder / "model.ckpt", b"pickled"), ".safetensors"),
    (lambda folder: written(folder / "model.safetensors", b"rubbish"), "could not be loaded"),
    (lambda folder: written(folder / "lora.safetensors", b"\x02\0\0\0\0\0\0\0{}"), "no Stable Diffusion checkpoint"),
])
def test_what_is_no_model_gets_a_sentence(tmp_path, make, word):
    with pytest.raises(ModelProblem, match=word):
        Playground(make(tmp_path))


def written(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.slow
def test_a_single_file_checkpoint_draws_what_its_folder_draws(studio, tmp_path):
    checkpoint = export(DEFAULT_MODEL, tmp_path)
    single = Studio(Playground(checkpoint, model_config=DEFAULT_MODEL))
    assert abs(single.draw().pictures[0].astype(int) - studio.draw().pictures[0]).max() <= 2


def test_a_shared_library_is_no_folder_here(studio, tmp_path, monkeypatch):
    import fsspec

    monkeypatch.chdir(tmp_path)
    shared = Studio(Playground(DEFAULT_MODEL, refdrop_dir="memory://library"))
    assert "Saved reference 'hero'" in shared.save("hero").comments
    assert [path.rsplit("/", 1)[-1] for path in fsspec.filesystem("memory").ls("/library", detail=False)
            if path.endswith(".safetensors")] == ["hero.safetensors"]
    assert not list(tmp_path.iterdir())
    assert "throughout" in shared.draw({"reference": "hero"}, seed=8).comments


@pytest.mark.parametrize("arguments, word", [
    (["--refdrop-dir", "nosuch://place"], "nosuch"), (["--lora-dir", "/no/such/folder"], "--lora-dir"),
])
def test_a_place_that_cannot_be_is_told_before_the_model_is_loaded(capsys, arguments, word):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert main(["--port", str(port), *arguments]) == 1
    said = capsys.readouterr().err
    assert word in said and said.count("\n") == 1


def test_memory_given_on_the_command_line_is_the_limit(monkeypatch):
    made = {}
    monkeypatch.setattr(
        "lib_refdrop.playground.__main__.serve", lambda playground, *address: made.update(it=playground)
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert main(["--port", str(port), "--refdrop-memory", "0.5"]) == 0
    assert made["it"].host.cmd_opts.refdrop_memory == 0.5


@pytest.fixture(scope="module")
def large_shape(playground, tmp_path_factory):
    """A model of SDXL's shape, tiny, with random weights."""
    torch.manual_seed(0)
    small = playground.model.pipeline
    tokenizer = small.tokenizer
    text = CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                          num_attention_heads=2, max_position_embeddings=77, projection_dim=16,
                          bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                          pad_token_id=tokenizer.pad_token_id)
    unet = UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=16 + 6 * 8,
        cross_attention_dim=64,
    )
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                       timestep_spacing="linspace")
    folder = tmp_path_factory.mktemp("sdxl")
    StableDiffusionXLPipeline(
        small.vae,
        CLIPTextModel(text).eval(),
        CLIPTextModelWithProjection(text).eval(),
        tokenizer,
        tokenizer,
        unet.eval(),
        scheduler,
    ).save_pretrained(folder)
    return Studio(Playground(folder, refdrop_dir=tmp_path_factory.mktemp("references")))


@pytest.mark.parametrize("negative", ["snow", None])
def test_a_model_of_sdxls_shape_draws_what_diffusers_draws(large_shape, negative):
    """eps-prediction, two text encoders, sizes and pooled prompts."""
    noise = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(5))
    theirs = large_shape.playground.model.pipeline(
        "a pirate",
        negative_prompt=negative,
        num_inference_steps=5,
        guidance_scale=5.0,
        latents=noise,
        output_type="np",
        width=128,
        height=128,
    ).images[0]
    ours = large_shape.draw(prompt="a pirate", negative_prompt=negative, steps=5, cfg_scale=5, width=128, height=128)
    assert np.abs(theirs * 255 - ours.pictures[0]).max() < 1.5


@pytest.mark.parametrize("keep", ["Exact", "Tiny"])
def test_a_model_of_sdxls_shape_gives_its_own_picture(large_shape, keep):
    payload = dict(prompt="a pirate AND [snow|grass]", negative_prompt="a king " * 50, width=128, height=128, seed=3)
    saved = large_shape.draw({"mode": "Save", "reference": keep, "keep": keep}, **payload)
    again = large_shape.draw({"reference": keep, "rfg": 0.7}, **payload)
    assert np.abs(again.pictures[0].astype(int) - saved.pictures[0]).max() <= 2


def test_an_address_that_is_taken_is_told_before_the_model_is_loaded(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["--port", str(taken.getsockname()[1])]) == 1
    assert "--port" in capsys.readouterr().err


@pytest.mark.slow
def test_a_package_called_modules_on_the_path_is_nobodys_affair(tmp_path):
    """Nothing is imitated by name, so nothing of that name is in the way."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "__init__.py").write_text("raise RuntimeError('somebody else\\'s')")
    said = "import atexit, sys; atexit.register(lambda: print('modules' in sys.modules)); "
    said += "from lib_refdrop.playground.__main__ import main; main(['--help'])"
    ran = subprocess.run([sys.executable, "-c", said],
                         env={**os.environ, "PYTHONPATH": str(tmp_path)}, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.endswith("False\n"), ran.stderr
    assert "--refdrop-memory" in ran.stdout and "--lora-dir" in ran.stdout
