"""The card tells what the model, its training and its reader are, by their own figures."""

from __future__ import annotations

import json

import pytest
import torch
from demo import model_card
from demo.characters import ATTRIBUTES, STEREOTYPES
from demo.model import new_pipeline
from demo.reader import READER


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """The card of a random model with an invented training."""
    model, work = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("work")
    pipeline = new_pipeline(1)
    pipeline.save_pretrained(model)
    (model / READER).parent.mkdir()
    (model / READER).with_suffix(".json").write_text(json.dumps({
        "drawings": {"training": 600, "held_out": 60}, "seconds": 12, "accuracy": {
            name: dict.fromkeys(ATTRIBUTES, 0.987) for name in ("clean", "softened", "autoencoder")}}))
    torch.save({"spent": 1234.5, "step": 4321}, work / "autoencoder.pt")
    torch.save({"spent": 5432.1, "step": 1000}, work / "diffusion.pt")
    torch.save(torch.zeros(70, 3, 4, 16, 16), work / "latents.pt")
    (work / model_card.NOTES).write_text("Once the lights went out.\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_card, "HELD_OUT", 2)
        text = model_card.write_card(model, work, workers=2)
    assert (model / "README.md").read_text(encoding="utf-8") == text
    return text, pipeline


def test_figures_are_those_of_the_training(card):
    text, _ = card
    for figure in ("210 procedurally", "70 characters in 3 views", "4,321 steps in 1,234 s", "1,000 steps in 5,432 s",
                   "32,000 samples", "| shirt | 0.987 | 0.987 | 0.987 |", "600 drawings", "60 held-out"):
        assert figure in text
    assert "Once the lights went out." in text


def test_figures_are_those_of_the_model(card):
    text, pipeline = card
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert f"| {sum(weight.numel() for weight in part.parameters()):,} |" in text
    assert "11 self-attention layers" in text


def test_it_tells_data_sharing_limits_and_licence(card):
    text, _ = card
    assert text.startswith("---\nlicense: mit\n")
    assert all(kind in text for kind in STEREOTYPES)
    for heading in ("Data", "Architecture", "Training", "What makes attention share", "The attribute reader", "Limits"):
        assert f"\n## {heading}\n" in text
    assert "resembles what a reference does at run time" in text
    assert max(map(len, text.splitlines())) < 400
