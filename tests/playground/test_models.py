"""What ``--model`` takes, and what it says about the rest."""

import socket

import pytest
from export_ldm import export

from lib_refdrop.playground import DEFAULT_MODEL, ModelProblem, Playground
from lib_refdrop.playground.__main__ import main

from .conftest import Studio


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


def test_an_address_that_is_taken_is_told_before_the_model_is_loaded(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["--port", str(taken.getsockname()[1])]) == 1
    assert "--port" in capsys.readouterr().err
