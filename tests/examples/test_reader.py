"""The attribute reader learns what it is to read, keeps it, and says so where it cannot serve."""

from __future__ import annotations

import itertools
import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from demo import reader as module
from demo import schedule
from demo.augment import augment
from demo.characters import ATTRIBUTES, draw, draw_character
from demo.reader import MODEL, READER, Reader, ReaderUnusable, train_reader

STEPS = 40
needs_reader = pytest.mark.skipif(not (MODEL / READER).exists(), reason="the reader is not trained yet")


@pytest.fixture(scope="module")
def little(tmp_path_factory):
    """A reader of :data:`STEPS` steps, its folder and its report. The clock of its training counts them, so that it is
    as good on a busy machine."""
    folder, clock = tmp_path_factory.mktemp("reader"), itertools.count(0, 6 / STEPS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        for name, value in (("DRAWINGS", 300), ("HELD_OUT", 60), ("DEGRADED", 60)):
            patch.setattr(module, name, value)
        report = train_reader(folder, seconds=6, seed=3, degrade=lambda pictures: pictures * 0.9)
    return folder, report


def test_training_writes_the_reader_and_its_accuracy(little):
    folder, report = little
    assert json.loads((folder / READER).with_suffix(".json").read_text()) == report
    assert set(report["accuracy"]) == {"clean", "softened", "autoencoder"}
    assert all(set(each) == set(ATTRIBUTES) for each in report["accuracy"].values())
    assert report["accuracy"]["clean"]["sky"] > 0.5  # chance is 1/6
    assert (folder / READER).stat().st_size < 1e6


def test_a_reader_answers_one_known_word_for_each_attribute_of_pictures_of_any_size(little):
    pictures = [draw(draw_character(random.Random(seed)), random.Random(seed)) for seed in range(3)]
    words = Reader.load(little[0]).read([*pictures, pictures[0].resize((256, 256)), np.asarray(pictures[1])])
    assert len(words) == 5
    assert all(each[name] in ATTRIBUTES[name] for each in words for name in ATTRIBUTES)
    assert words[4] == words[1]
    assert Reader.load(little[0]).read([]) == []


@pytest.mark.parametrize("content", (None, b"", b"not a tensor file", b"\xff" * 64))
def test_a_missing_or_damaged_reader_is_told(tmp_path, content):
    if content is not None:
        (tmp_path / READER).parent.mkdir()
        (tmp_path / READER).write_bytes(content)
    with pytest.raises(ReaderUnusable, match="no usable attribute reader"):
        Reader.load(tmp_path)


def test_a_reader_of_other_attributes_is_told(little, monkeypatch):
    monkeypatch.setattr(module, "ATTRIBUTES", {**ATTRIBUTES, "sky": ("green", "red")})
    with pytest.raises(ReaderUnusable, match="train it again"):
        Reader.load(little[0])


def test_augmented_pictures_stay_pictures():
    pictures = torch.rand(6, 3, 128, 128) * 2 - 1
    changed = augment(pictures, torch.Generator().manual_seed(1))
    assert changed.shape == pictures.shape
    assert changed.min() >= -1 and changed.max() <= 1
    assert not torch.equal(changed, pictures)
    assert torch.equal(changed, augment(pictures, torch.Generator().manual_seed(1)))


@needs_reader
def test_the_bundled_reader_reads_drawings_it_never_saw():
    rng = random.Random("never seen")
    who = [draw_character(rng) for _ in range(60)]
    words = module.read([draw(one, rng) for one in who])
    right = np.mean([[read[name] == getattr(one, name) for name in ATTRIBUTES] for one, read in zip(who, words)])
    assert right > 0.97
