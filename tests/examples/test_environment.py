"""Which Python, which build of PyTorch, and whether anything has to be installed at all."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import environment
import pytest

ROOT = Path(environment.__file__).resolve().parents[1]
CUDA_BUILD = {"torch", "filelock", "sympy", "nvidia-cublas", "triton"}
CPU_BUILD = {"torch", "filelock", "sympy", "networkx"}


def test_a_machine_without_a_gpu_is_spared_the_cuda_packages():
    assert environment.wants_cpu_build(CUDA_BUILD, has_gpu=False)
    assert environment.wants_cpu_build(None, has_gpu=False)  # what pip cannot tell is not risked
    assert not environment.wants_cpu_build(CUDA_BUILD, has_gpu=True)
    assert not environment.wants_cpu_build(CPU_BUILD, has_gpu=False)
    assert not environment.wants_cpu_build(set(), has_gpu=False)  # it is there already


@pytest.fixture
def pip(monkeypatch):
    """What pip is asked to install; ``refuses`` it, or not."""
    class Pip:
        def __init__(self):
            self.asked, self.refuses = [], False

        def install(self, python, log, what, arguments, optional=False):
            self.asked.append(arguments)
            return not self.refuses

    pip = Pip()
    monkeypatch.setattr(environment, "_pip", pip.install)
    return pip


def install_torch(monkeypatch, brings, has_gpu):
    monkeypatch.setattr(environment, "_has_nvidia_gpu", lambda: has_gpu)
    monkeypatch.setattr(environment, "_brings", lambda python, package: brings)
    environment._install_torch(Path("python"), Path("install.log"), "torch==2.13.0")


@pytest.mark.parametrize("brings", (CUDA_BUILD, None))
def test_where_the_build_without_cuda_is_out_of_reach_it_stops_with_a_sentence(monkeypatch, pip, brings):
    pip.refuses = True
    with pytest.raises(SystemExit, match="without CUDA could not be had .* check the connection"):
        install_torch(monkeypatch, brings, has_gpu=False)
    assert [environment.CPU_INDEX in asked for asked in pip.asked] == [True]  # and nothing larger was tried


@pytest.mark.parametrize("brings, has_gpu, from_index", (
    (CUDA_BUILD, False, True), (None, False, True), (CPU_BUILD, False, False), (CUDA_BUILD, True, False)))
def test_pytorch_comes_from_the_place_that_suits_the_machine(monkeypatch, pip, brings, has_gpu, from_index):
    install_torch(monkeypatch, brings, has_gpu)
    assert [environment.CPU_INDEX in asked for asked in pip.asked] == [from_index]


@pytest.mark.parametrize("version, supported", [((3, 9, 18), False), ((3, 10, 0), True), ((3, 13, 9), True),
                                                ((3, 14, 0), False), ((2, 7), False), ((4, 0), False)])
def test_supported_versions(version, supported):
    assert environment.is_supported(version) is supported


def test_the_running_python_is_taken_where_it_will_do():
    assert environment.find_python((3, 11, 2), False, pytest.fail) == [sys.executable]


def test_another_one_on_path_is_found_and_must_really_run():
    there = {"python3.13": None, "python3.11": (3, 11)}  # a shim that does not run, and a Python
    assert environment.find_python((3, 14, 0), False, lambda command: there.get(command[0])) == ["python3.11"]
    launcher = {"-3.10": (3, 10)}
    found = environment.find_python((3, 9, 1), True, lambda command: launcher.get(command[1]))
    assert found == ["py", "-3.10"]


def test_without_one_there_is_none():
    assert environment.find_python((3, 14, 0), False, lambda command: None) is None
    assert environment.find_python((3, 14, 0), False, lambda command: (3, 14)) is None


def test_pytorch_is_pinned_exactly():
    assert environment.pinned((ROOT / environment.RUNTIME).read_text(), "torch") == "torch==2.13.0"
    with pytest.raises(ValueError, match="torch"):
        environment.pinned("torchsde==0.2.6\n", "torch")


def install(root: Path, folder: Path, name: str) -> None:
    python = environment._python_in(folder)
    python.parent.mkdir(parents=True, exist_ok=True)
    python.touch()
    environment._stamp_file(folder).write_text(f'{{"{name}": "{environment.fingerprint(name, root)}"}}')


def test_an_environment_is_current_until_a_requirement_changes(tmp_path):
    (tmp_path / "needs.txt").write_text("one==1\n")
    folder = tmp_path / "env"
    assert not environment.is_current("needs.txt", folder, tmp_path)
    install(tmp_path, folder, "needs.txt")
    assert environment.is_current("needs.txt", folder, tmp_path)
    (tmp_path / environment.CONSTRAINTS).write_text("two==2\n")
    assert not environment.is_current("needs.txt", folder, tmp_path)
    install(tmp_path, folder, "needs.txt")
    (tmp_path / "needs.txt").write_text("one==2\n")
    assert not environment.is_current("needs.txt", folder, tmp_path)


@pytest.mark.parametrize("stamp", ("", "{", "[]", '{"needs.txt": 3}', "\0\1"))
def test_a_damaged_stamp_means_install_again(tmp_path, stamp):
    (tmp_path / "needs.txt").write_text("one==1\n")
    install(tmp_path, tmp_path / "env", "needs.txt")
    environment._stamp_file(tmp_path / "env").write_text(stamp)
    assert not environment.is_current("needs.txt", tmp_path / "env", tmp_path)


@pytest.mark.parametrize("command", (
    ["quickstart.py", "--help"], ["evaluate.py", "--help"], ["evaluate.py", "--coefficients=nan"],
    ["evaluate.py", "--pairs", "1"], ["export_ldm.py", "--help"], ["export_ldm.py"], ["train_demo_model.py", "--help"],
    ["train_demo_model.py"]))
def test_help_and_wrong_options_are_answered_before_anything_is_installed(command):
    # with -S no installed package can be imported, so the answer cannot have needed one
    answer = subprocess.run([sys.executable, "-S", *command], cwd=ROOT / "examples", capture_output=True, text=True)
    assert answer.returncode == (0 if "--help" in command else 2)
    assert "usage:" in answer.stdout + answer.stderr


@pytest.mark.parametrize("command, arguments", [("export_ldm", ["--out", "nowhere"]), ("quickstart", []),
                                                ("evaluate", ["--pairs", "2"]), ("use_in_python", [])])
def test_a_command_makes_its_environment_before_it_does_anything(monkeypatch, command, arguments):
    """On a new machine nothing else can be imported."""
    def enters(*given, **more):
        raise InterruptedError("entered")

    monkeypatch.setattr(environment, "enter", enters)
    with pytest.raises(InterruptedError, match="entered"):
        importlib.import_module(command).main(arguments)
