"""An experiment asks for the right pictures and reports what they show."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from demo.client import Recipe, RequestRefused
from demo.experiment import Experiment, files_without, largest_difference, off_identical
from demo.pairs import make_pairs
from demo.report import COPYING, Judge, curve_table, kept, promises, table, write

from .conftest import DrawingHost


class Eyes:
    """Knows every drawing of the host by heart, in the order they were read: reads without a network."""

    def __init__(self, results, host):
        orders = {id(image): host.who(pair.reference.prompt, pair.reference.seed)
                  for image, pair in zip(results.references, results.pairs)}
        orders |= {id(image): host.who(pair.target.prompt, pair.target.seed)
                   for image, pair in zip(results.plain, results.pairs)}
        for c, images in results.guided.items():
            orders |= {id(image): host.guided(host.who(pair.target.prompt, pair.target.seed),
                                              host.who(pair.reference.prompt, pair.reference.seed), c)
                       for image, pair in zip(images, results.pairs)}
        self._who = orders

    def read(self, pictures):
        return [self._who[id(picture)].attributes() for picture in pictures]


def run(host, pairs=12, coefficients=(-0.3, 0.0, 0.3, 0.5), said=None):
    return Experiment(host, Recipe(), "ref", (said if said is not None else []).append).run(
        make_pairs(1, pairs), list(coefficients))


def test_the_report_shows_what_the_host_did(host):
    results = run(host)
    judge = Judge(results, Eyes(results, host))
    report = judge.report(off_identical=True)
    assert report["pairs"] == 12
    # this host copies round(6 c) attributes; any other may agree by chance
    assert report["agreement"]["consistent"] >= 2 / 6
    assert report["agreement"]["diverse"] == 0
    assert report["agreement"]["plain"] == pytest.approx(judge.guided[0.0]["agreement"].value)
    assert report["prompt_adherence"] == {"plain": 1, "consistent": 1, "diverse": 1}
    assert 0 < report["diversity"]["plain"] < 1
    assert set(report["seconds"]) == {"plain", "save", "use"}
    curve = judge.curve()
    assert [entry["c"] for entry in curve] == [-0.3, 0.0, 0.3, 0.5]
    for entry in curve:
        low, high = entry["intervals"]["agreement"]
        assert low <= entry["agreement"] <= high
        assert entry["agreement"] == pytest.approx(sum(entry["agreement_by_attribute"].values()) / 6)
        for name, value in entry["agreement_by_attribute"].items():
            low, high = entry["intervals"]["agreement_by_attribute"][name]
            assert low <= value <= high
    assert curve[1]["gap_closed"] == 0


def test_a_host_that_copies_the_place_is_told_by_its_copy_rate(host):
    class Copying(DrawingHost):
        """Takes the reference's ground along, and above 0.4 its pose; nothing else."""

        @staticmethod
        def guided(who, reference, c):
            taken = {"ground": reference.ground} if c > 0 else {}
            return replace(who, **taken, **({"pose": reference.pose} if c > 0.4 else {}))

    copying = Copying()
    results = run(copying, pairs=4)
    judge = Judge(results, Eyes(results, copying))
    report, curve = judge.report(off_identical=None), judge.curve()
    assert report["copy_rate"] == {"plain": 0, "consistent": 1, "diverse": 0}
    assert report["ground_agreement"]["consistent"] == 1 and report["pose_agreement"]["consistent"] == 0
    assert report["intervals"]["copy_rate"]["plain"] == [0, pytest.approx(0.6024, abs=1e-4)]  # 0 of 4
    assert [entry["pose_agreement"] for entry in curve] == [0, 0, 0, 1]
    assert [entry["copy_rate"] for entry in curve] == [0, 0, 1, 1]
    assert len({entry["subject_agreement"] for entry in curve}) == 1  # nothing else was taken
    assert report["prompt_adherence"]["consistent"] == pytest.approx(2 / 3)
    lines = curve_table(curve, COPYING).splitlines()
    assert len(lines) == 5 and lines[0].split() == ["c", "subject", "sky", "ground", "pose", "copy", "rate"]
    assert lines[3].startswith("+0.30") and lines[3].endswith("1.000 (0.398-1.000)")


def test_every_guided_target_names_its_own_reference_and_asks_to_stop_without_it(host):
    run(host, pairs=2, coefficients=(0.3, -0.3))
    settings = [payload["alwayson_scripts"]["RefDrop"]["args"][0] for payload in host.payloads
                if "alwayson_scripts" in payload]
    saves = [each for each in settings if each["mode"] == "Save"]
    uses = [each for each in settings if each["mode"] == "Use"]
    whole = [each for each in saves if each.get("keep") == "Exact"]  # to see the own picture again, once
    assert len(saves) == 2 + len(whole) and len(whole) == 1 and all(each["replace"] for each in saves)
    assert {each["reference"] for each in saves + uses} == {"ref"}
    assert all(each["on_problem"] == "Stop" for each in uses)
    assert [each["rfg"] for each in uses].count(-0.3) == 2


def test_a_picture_that_came_back_unguided_is_never_counted(host):
    class Forgetful(DrawingHost):
        guided = staticmethod(lambda who, reference, c: who)

        def txt2img(self, payload):
            answer = super().txt2img(payload)
            return type(answer)(answer.files, [text.split(", RefDrop")[0] for text in answer.infotexts], answer.seconds)

    with pytest.raises(RequestRefused, match="without guidance"):
        run(Forgetful(), pairs=1)


def test_self_reproduction_is_the_largest_difference_anywhere(host):
    results = run(host, pairs=1)
    assert results.self_reproduction_max_abs > 100  # at c = −0.5 this host paints another shirt
    assert largest_difference(results.plain[0], results.plain[0]) == 0


def test_zero_is_compared_with_plain(host):
    assert run(host, pairs=2).zero_identical is True
    assert run(host, pairs=2, coefficients=(0.3,)).zero_identical is None


def test_off_is_identical_only_where_every_byte_is(host):
    orders = [pair.target for pair in make_pairs(1, 2)]
    without = files_without(DrawingHost(), orders, Recipe())
    assert off_identical(host, orders, Recipe(), without)

    class Leaky(DrawingHost):
        def txt2img(self, payload):
            answer = super().txt2img(payload)
            return type(answer)([answer.files[0] + b"\0"], answer.infotexts, answer.seconds)

    assert not off_identical(Leaky(), orders, Recipe(), without)


def test_a_report_is_plain_json_and_reads_well(host, tmp_path):
    results = run(host, pairs=2)  # of two kinds: no diversity to measure
    report = Judge(results, Eyes(results, host)).report(off_identical=None)
    write(report, tmp_path / "report.json")
    again = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert again["diversity"]["plain"] is None
    assert again["reference_bytes"] is None
    text = "\n".join((table(report), kept(report), promises(report)))
    assert "consistent (c = +0.3)" in text and "not looked at" in text
    assert text.isascii()
