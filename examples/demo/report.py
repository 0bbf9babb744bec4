"""What an experiment shows, as the fields of ``report.json``, and as a table for people."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

from .experiment import Results
from .measure import MEASURES, Measured, agreement_matrix, by_attribute, measures, stereotype_share
from .reader import Reader

CONSISTENT, DIVERSE = 0.3, -0.3
# Columns of tables, lines of figures: heading and field. Likeness by itself, then what is to come with it and what not.
EFFECT = {"agreement": "agreement", "adherence": "prompt_adherence", "diversity": "diversity"}
COPYING = {"subject": "subject_agreement", "sky": "sky_agreement", "ground": "ground_agreement",
           "pose": "pose_agreement", "copy rate": "copy_rate"}


class Judge:
    """Reads the pictures of an experiment once and measures any row of targets against the references."""

    def __init__(self, results: Results, reader: Reader) -> None:
        self._results, self._reader = results, reader
        self._references = reader.read(results.references)
        self._kinds = [pair.kind for pair in results.pairs]
        self.plain = self._measure(results.plain)
        self.guided = {c: self._measure(targets) for c, targets in results.guided.items()}

    def _measure(self, targets) -> dict[str, Any]:
        words = self._reader.read(targets)
        wanted = [pair.target.named for pair in self._results.pairs]
        return {**measures(self._references, wanted, words, self._kinds),
                "by_attribute": by_attribute(agreement_matrix(self._references, words)),
                "stereotype": stereotype_share(words, self._kinds)}

    def report(self, off_identical: bool | None) -> dict[str, Any]:
        """The fields both commands write."""
        results = self._results
        rows = {"plain": self.plain, "consistent": self.guided[CONSISTENT], "diverse": self.guided[DIVERSE]}
        return {
            "pairs": len(results.pairs),
            **{field: {name: row[field].value for name, row in rows.items()} for field in MEASURES},
            "diversity": {name: rows[name]["diversity"].value for name in ("plain", "diverse")},
            "stereotype": {name: row["stereotype"] for name, row in rows.items()},
            "intervals": {field: {name: interval(row[field]) for name, row in rows.items()}
                          for field in MEASURES},
            "coefficients": {"consistent": CONSISTENT, "diverse": DIVERSE},
            "reference_bytes": round(statistics.mean(results.reference_bytes)) if results.reference_bytes else None,
            "reference_files": max(results.reference_files) if results.reference_files else None,
            "seconds": results.median_seconds(),
            "self_reproduction_max_abs": results.self_reproduction_max_abs,
            "off_identical": off_identical,
        }

    def curve(self) -> list[dict[str, Any]]:
        """One entry for each coefficient, in rising order."""
        plain = self.plain["agreement"].value
        return [{
            "c": c, **{field: row[field].value for field in MEASURES},
            "agreement_by_attribute": {name: part.value for name, part in row["by_attribute"].items()},
            "stereotype": row["stereotype"],
            "gap_closed": (row["agreement"].value - plain) / (1 - plain) if plain < 1 else None,
            "intervals": {
                **{field: interval(row[field]) for field in MEASURES},
                "agreement_by_attribute": {name: interval(part) for name, part in row["by_attribute"].items()},
            },
        } for c, row in sorted(self.guided.items())]


def interval(measured: Measured) -> list[float]:
    """The 95 % interval, low and high."""
    return [measured.low, measured.high]


def write(report: dict[str, Any], path: Path) -> None:
    """As JSON: rounded to four places, what could not be measured as null."""
    path.write_text(json.dumps(_plain(report), indent=1) + "\n", encoding="utf-8")


def table(report: dict[str, Any]) -> str:
    """The rows plain, consistent and diverse, in ASCII for every terminal."""
    c, seconds = report["coefficients"], report["seconds"]
    names = {"plain": "plain", "consistent": f"consistent (c = {c['consistent']:+g})",
             "diverse": f"diverse (c = {c['diverse']:+g})"}
    lines = [f"{'':24}{'agreement':>11}{'adherence':>11}{'diversity':>11}{'s/picture':>11}"]
    for key, name in names.items():
        cells = "".join(f"{cell(report[field].get(key)):>11}" for field in EFFECT.values())
        lines.append(f"{name:24}{cells}{seconds['plain' if key == 'plain' else 'use']:11.2f}")
    lines += ["", f"{'':24}" + "".join(f"{heading:>11}" for heading in COPYING)]
    for key, name in names.items():
        lines.append(f"{name:24}" + "".join(f"{cell(report[field].get(key)):>11}" for field in COPYING.values()))
    lines += ["", "agreement: unnamed attributes equal to the reference's; adherence: named ones equal to the",
              "prompt's; diversity: unnamed attributes in which two targets of one kind differ.",
              "subject: agreement of the figure's own attributes; sky, ground, pose: of those of the place. copy rate:",
              "pairs with the reference's ground or pose although the prompt names another; plain is the base rate."]
    return "\n".join(lines)


def curve_table(curve: list[dict[str, Any]], columns: dict[str, str]) -> str:
    """A row for each coefficient: the columns' fields with their intervals, and the gap closed beside agreement."""
    closes = "agreement" in columns.values()
    lines = [f"{'c':>5}  " + "".join(f"{heading:22}" for heading in columns) + "closed" * closes]
    for entry in curve:
        closed = "" if not closes or entry["gap_closed"] is None else f"{entry['gap_closed']:.0%}"
        cells = "".join(f"{with_interval(entry, field):22}" for field in columns.values())
        lines.append(f"{entry['c']:+5.2f}  {cells}{closed}")
    return "\n".join(line.rstrip() for line in lines)


def with_interval(entry: dict[str, Any], field: str) -> str:
    """Value and interval of one field, for a table; empty where there is nothing to measure."""
    low, high = entry["intervals"][field]
    return f"{entry[field]:.3f} ({low:.3f}-{high:.3f})" if math.isfinite(entry[field]) else ""


def kept(report: dict[str, Any]) -> str:
    """What a reference takes, in one line."""
    if report["reference_bytes"] is None:
        return f"Reference: kept by the host; saving took {report['seconds']['save']:.2f} s a picture."
    count = report["reference_files"]
    return (f"Reference: {count} file{'s' * (count != 1)}, {report['reference_bytes'] / 1e6:.1f} MB; a picture took "
            f"{report['seconds']['save']:.2f} s while saving.")


def promises(report: dict[str, Any]) -> str:
    """The two exactness promises, in words."""
    off = {True: "identical, to the byte", False: "NOT identical", None: "not looked at"}[report["off_identical"]]
    return (f"Switched off, pictures are {off}. With its own seed and prompt a reference gives its own picture again,\n"
            f"within {report['self_reproduction_max_abs']} of 255 grey levels.")


def cell(value: float | None) -> str:
    """A number for a table; empty where there is none."""
    return "" if value is None or math.isnan(value) else f"{value:.2f}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value
