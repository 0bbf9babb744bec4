"""A short run; ``python -m tests.fuzz --files 5000 --seed 1`` and ``python -m tests.fuzz --requests 2000`` are the long
ones."""

import json
import random

import pytest
import torch

from . import files
from .forging import Forged
from .mutations import CHANGES, mutate


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return files.SmallModel()


def test_spoilt_files_guide_or_get_one_sentence(model):
    findings = files.run(300, 11, model)
    assert not findings.bad, "\n".join(findings.bad)
    counts = findings.counts
    assert counts["guided"] > 30 and counts["one sentence"] > 100 and sum(counts.values()) > 250, findings


def test_requests_get_an_answer():
    from . import playground

    findings = playground.run_requests(60, 5)
    assert not findings.bad, "\n".join(findings.bad)
    assert findings.counts["422"] > 30 and findings.counts["200"] > 3, findings


def test_spoilt_files_in_the_playground():
    from . import playground

    findings = playground.run_files(15, 5)
    assert not findings.bad, "\n".join(findings.bad)
    assert findings.counts["guided"] and findings.counts["one sentence"], findings


# The fuzzer itself: a check that cannot fail would find nothing ------------------------------------------------------


def test_what_the_fuzzer_takes_for_a_fault(model, tmp_path, monkeypatch):
    path, plain = model.seeds[0].write(tmp_path / "hero.safetensors"), model.draw(seed=7)
    assert files.outcome_of(model, path, plain) == ("guided", False)
    for answer, outcome in (((plain, 3), "not guided, nothing said"), ((plain + 1, 0), "not guided, nothing said"),
                            ((plain * float("nan"), 3), "not finite, nothing said")):
        monkeypatch.setattr(files.SmallModel, "use", lambda *_, answer=answer: answer)
        assert files.outcome_of(model, path, plain) == (outcome, True)
    for error, outcome in ((KeyError("x"), "KeyError: 'x'"),
                           (files.RefDropError("RefDrop failed (KeyError: 'hero')."), None),
                           (files.RefDropError("The model's 'hero'\nis damaged."), None)):
        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(files.SmallModel, "use", fail)
        found, is_bad = files.outcome_of(model, path, plain)
        assert is_bad and (outcome is None or found == outcome)


def test_a_seed_is_a_reference_of_its_own_kind(model, tmp_path):
    """What is spoilt serves when it is not, with the same bytes the writer made."""
    for number, seed in enumerate(model.seeds):
        path = seed.write(tmp_path / f"{number}.safetensors")
        picture, acted = model.use(path)
        assert acted == 3 and torch.isfinite(picture).all()
        again = Forged.of(path)
        assert again.manifest == seed.manifest and again.tensors == seed.tensors and again.sums() == seed.sums()


def test_every_change_changes_files(model):
    done = {change.__name__: 0 for change in CHANGES}
    for number in range(1500):
        chance = random.Random(number)
        seed = chance.choice(model.seeds)
        forged, _, names = mutate(chance, seed)
        for name in {*names} - {"sums_gone"}:
            done[name] += len(names) == 1 and (forged.tensors != seed.tensors or said(forged) != said(seed))
    assert min(done.values()) >= 2, done


def said(forged):
    return json.dumps(forged.manifest, sort_keys=True)
