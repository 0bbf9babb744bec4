"""Rows for further references and the text that keeps them say the same; neither loses what the other cannot show."""

from __future__ import annotations

from lib_refdrop.guides import Guide, read
from lib_refdrop.webui.further import ROWS, _into_rows, _into_text

EMPTY = ["", "", "", 0.3, 0.3, 0.3]


def test_what_is_chosen_is_written() -> None:
    assert _into_text("", "hero", "", "castle", 0.3, 0.3, -0.2) == "hero: 0.3; castle: -0.2"
    assert _into_text("hero: 0.3", *EMPTY) == ""


def test_what_rows_cannot_show_stays() -> None:
    text = ('[{"name": "hero", "rfg": 0.3, "until": 0.5}, "b", "c", '
            '{"name": "fourth", "rfg": -0.1, "layers": "middle=0"}]')
    changed = _into_text(text, "hero", "b", "new", 0.4, 0.3, 0.3)
    assert read(changed, Guide()) == [Guide("hero", 0.4, until=0.5), Guide("b"), Guide("new"),
                                      Guide("fourth", -0.1, layers="middle=0")]


def test_what_is_pasted_is_shown_and_then_nothing_more_is_told() -> None:
    updates = _into_rows("hero: 0.5; castle: -0.2", *EMPTY)
    assert [update["value"] for update in updates] == ["hero", "castle", "", 0.5, -0.2, 0.3]
    shown = [update["value"] for update in updates]
    assert all("value" not in update for update in _into_rows("hero: 0.5; castle: -0.2", *shown))
    assert "value" not in _into_text("hero: 0.5; castle: -0.2", *shown)


def test_a_text_that_is_half_typed_changes_nothing() -> None:
    assert all("value" not in update for update in _into_rows('[{"name"', *EMPTY)) and ROWS == 3
