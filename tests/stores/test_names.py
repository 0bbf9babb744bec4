"""Names in the forms people type, paste and find on disks: one form, one check, one sentence."""

import os
import unicodedata

import pytest

from lib_refdrop.references import names
from lib_refdrop.settings import Settings
from lib_refdrop.stores import DiskStore, MemoryStore
from lib_refdrop.words import ReferenceProblem, SettingsError

from .saving import is_whole, save

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize("typed, name", [
    ("hero ", "hero"), (" lead", "lead"), ("\u00a0hero\u3000", "hero"), ("a\u00a0knight", "a knight"),
    (DECOMPOSED, COMPOSED), ("hero.safetensors", "hero"), ("Hero.SafeTensors ", "Hero"), ("дракон", "дракон"),
    ("v1.5", "v1.5"), ("\u2764\ufe0f", "\u2764"), ("512x768", "512x768"),
])
def test_the_one_form_of_a_name(typed, name):
    assert names.checked(typed) == name
    assert Settings.from_args([{"enabled": True, "mode": "Use", "reference": typed}]).reference == name


@pytest.mark.parametrize("typed", [
    "\u00a0con", "con", "CON.txt", "con .txt", "com1", "lpt\u00b9", "a/b", "a\\b", "..", ".", "hero.", ".hero", "a:b",
    "a?", "a*", 'say "a"', "a|b", "<a>", "a\nb", "a\tb", "a\x00b", "a\x7fb", "\ud800", "bad\udcff", "a\u200bb",
    "\u202eoreh", "a\u200fb", "\u2066a", "a\u2028b",
    "a\u00adb", "\u3164", "\ufeffhero", "x" * 131, "é" * 70, ".safetensors.safetensors",
])
@pytest.mark.parametrize("mode", ["Use", "Save"])
def test_what_cannot_be_a_name_is_one_sentence(typed, mode, tmp_path):
    for ask in (lambda: Settings.from_args([{"enabled": True, "mode": mode, "reference": typed}]),
                lambda: DiskStore(tmp_path).load(typed), lambda: DiskStore(tmp_path).writer(typed),
                lambda: DiskStore(tmp_path).delete(typed), lambda: MemoryStore().load(typed),
                lambda: MemoryStore().writer(typed)):
        with pytest.raises(SettingsError, match="cannot be a reference's name; use letters") as caught:
            ask()
        assert str(caught.value).isprintable() and len(str(caught.value)) < 250
        str(caught.value).encode()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("typed", ["", "  ", "\u00a0", ".safetensors"])
def test_no_name_is_none(typed):
    assert Settings.from_args([{"enabled": True, "mode": "Use", "reference": typed}]).reference == ""


def test_a_number_that_a_store_adds_can_be_asked_for(tmp_path):
    store, longest = DiskStore(tmp_path), "x" * names.LONGEST
    assert [save(store, number, longest) for number in range(2)] == [longest, longest + "-2"]
    assert is_whole(store.load(longest + "-2")) and store.newest() == longest + "-2"
    with pytest.raises(SettingsError, match="at most 120"):
        store.writer(longest + "x")


@pytest.mark.parametrize("spelled", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("typed", [COMPOSED, DECOMPOSED, f" {DECOMPOSED}.safetensors"])
def test_letters_composed_or_not_are_the_same(tmp_path, spelled, typed):
    """Macs write names decomposed; a file copied from there keeps that."""
    store = DiskStore(tmp_path)
    save(store, 3, "made")
    (tmp_path / "made.safetensors").rename(tmp_path / f"{spelled}.safetensors")
    assert store.names() == [COMPOSED]
    with store.using(typed) as reference:
        assert is_whole(reference) and reference.name == COMPOSED == reference.manifest["name"]
    assert save(store, 4, typed) == f"{COMPOSED}-2"
    assert save(store, 5, typed, replace=True) == COMPOSED
    assert store.load(COMPOSED).manifest["seed"] == 5 and len(list(tmp_path.iterdir())) == 2
    store.delete(typed)
    assert store.names() == [f"{COMPOSED}-2"]


def test_what_the_check_refuses_is_not_listed(tmp_path):
    store = DiskStore(tmp_path)
    save(store, 1, "hero")
    content = (tmp_path / "hero.safetensors").read_bytes()
    for stray in (b"bad\xff", "a\u200bb".encode(), "\u202eoreh".encode(), b"a:b", b"con", b".hidden", b"x" * 150):
        with open(os.path.join(os.fsencode(tmp_path), stray + b".safetensors"), "wb") as file:
            file.write(content)
    assert store.names() == ["hero"] and store.newest() == "hero"
    with pytest.raises(ReferenceProblem, match="no reference 'ghost' .*; there are: hero.$"):
        store.load("ghost")


class CaseBlind:
    """A folder as macOS and Windows have it: a file is found whatever the case it is asked for in."""

    def __init__(self, folder, monkeypatch):
        self._folder = str(folder)
        for name in ("stat", "lstat"):
            monkeypatch.setattr(os, name, self._asked(getattr(os, name)))

    def _asked(self, ask):
        def answer(path, *args, **how):
            if isinstance(path, (str, os.PathLike)) and os.path.dirname(path) == self._folder:
                alike = {each.lower(): each for each in os.listdir(self._folder)}
                path = os.path.join(self._folder, alike.get(os.path.basename(path).lower(), os.path.basename(path)))
            return ask(path, *args, **how)
        return answer


def test_a_disk_that_makes_no_difference_of_case(tmp_path, monkeypatch):
    store = DiskStore(tmp_path)
    save(store, 1, "hero")
    with pytest.raises(ReferenceProblem, match="no reference 'Hero'.*there are: hero"):
        store.load("Hero")
    CaseBlind(tmp_path, monkeypatch)
    with store.using("Hero") as reference:
        assert is_whole(reference) and reference.name == "hero"
    assert save(store, 2, "HERO") == "HERO-2"
    save(store, 3, "Hero", replace=True)
    assert sorted(os.listdir(tmp_path)) == ["HERO-2.safetensors", "hero.safetensors"]
    assert store.load("hero").manifest["seed"] == 3
    store.delete("HERO")
    assert store.names() == ["HERO-2"]


def test_of_many_names_the_nearest_are_told_and_how_many_more():
    many = [f"knight-{number}" for number in range(300)] + ["hero-of-the-north"] + [f"pawn-{n}" for n in range(200)]
    sentence = str(names.missing("Hero-of-the-nort", many, "on disk"))
    assert sentence == ("There is no reference 'Hero-of-the-nort' on disk; there are: hero-of-the-north, pawn-199, "
                        "pawn-198, pawn-197, pawn-196 and 496 more.")
    assert str(names.missing("x", ["a", "b"], "on disk")) == "There is no reference 'x' on disk; there are: b, a."
    assert str(names.missing("x", [], "on disk")) == "There is no reference 'x' on disk; save one first."


def test_names_are_kept_composed(tmp_path):
    assert save(DiskStore(tmp_path), 1, DECOMPOSED) == COMPOSED
    assert unicodedata.is_normalized("NFC", os.listdir(tmp_path)[0])
