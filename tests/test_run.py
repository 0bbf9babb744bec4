"""What ``python tests/run.py`` makes of its arguments, and that the checks of the code find what they are there for."""

from __future__ import annotations

import shutil

import pytest

from tests import run

EVERYTHING = ["-m", "not host and not gpu"]


@pytest.mark.parametrize("given", ([], ["-q"], ["-x", "--durations=5"]))
def test_a_run_of_everything_is_shared_by_two_processes(given):
    assert run.runs_everything(given)
    assert run.arguments(given) == [*EVERYTHING, "-n", "2", "--dist", "worksteal", *given, "tests"]


def test_the_number_of_processes_can_be_given():
    assert run.arguments(["-n", "0"]) == [*EVERYTHING, "-n", "0", "tests"]


@pytest.mark.parametrize("given, wanted", (
    (["tests/stores"], [*EVERYTHING, "tests/stores"]),
    (["tests/test_run.py::test_none", "-x"], [*EVERYTHING, "tests/test_run.py::test_none", "-x"]),
    (["-m", "gpu"], ["-m", "gpu", "tests"]),
    (["-mgpu", "tests/stores"], ["-mgpu", "tests/stores"]),
    (["-k", "own_seed"], [*EVERYTHING, "-k", "own_seed", "tests"])))
def test_a_run_of_named_tests_is_only_that(given, wanted):
    assert not run.runs_everything(given)
    assert run.arguments(given) == wanted


FAULTS = {"ruff": "import os\n", "mypy": "def length(text: str | None) -> int:\n    return len(text)\n"}


@pytest.mark.parametrize("tool", sorted(FAULTS))
def test_a_fault_is_found_and_shown(tool, tmp_path, capfd):
    shutil.copy(run.ROOT / "pyproject.toml", tmp_path)
    package = tmp_path / "lib_refdrop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert run.look_through(tool, tmp_path)
    assert f"{tool}: found nothing" in capfd.readouterr().out
    (package / "new.py").write_text(FAULTS[tool])
    assert not run.look_through(tool, tmp_path)
    shown = capfd.readouterr().out
    assert "new.py:" in shown and f"{tool}: found something" in shown


@pytest.mark.parametrize("clean, tests, wanted", ((True, 0, 0), (False, 0, 1), (True, 5, 5), (False, 5, 5)))
def test_what_is_found_fails_a_run_of_everything_and_of_nothing_else(monkeypatch, clean, tests, wanted):
    monkeypatch.setattr(run.environment, "enter", lambda *files: None)
    monkeypatch.setattr(run, "look_through", lambda name: clean)
    monkeypatch.setattr(run.subprocess, "call", lambda command, **how: tests)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert run.main([]) == wanted
    assert run.main(["tests/stores"]) == tests


def test_a_tool_that_is_not_installed_is_told_and_no_fault(monkeypatch, capfd):
    monkeypatch.setattr(run, "has", lambda module: False)
    assert run.look_through("ruff")
    assert "ruff: not installed here, skipped" in capfd.readouterr().out
