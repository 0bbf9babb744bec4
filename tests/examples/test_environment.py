"""Which Python, which build of PyTorch, and whether anything has to be installed at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import environment
import pytest

ROOT = Path(environment.__file__).resolve().parents[1]
CUDA_WHEEL = ["filelock", "sympy>=1.13.3", 'nvidia-cublas==13.1.1.3; platform_system == "Linux"', "triton==3.7.1"]
CPU_WHEEL = ["filelock", "sympy>=1.13.3", "networkx"]


def test_a_machine_without_a_gpu_is_spared_the_cuda_packages():
    assert environment.wants_cpu_build(CUDA_WHEEL, has_gpu=False)
    assert not environment.wants_cpu_build(CUDA_WHEEL, has_gpu=True)
    assert not environment.wants_cpu_build(CPU_WHEEL, has_gpu=False)
    assert not environment.wants_cpu_build([], has_gpu=False)


@pytest.mark.parametrize("version, supported", [((3, 9, 18), False), ((3, 10, 0), True), ((3, 12, 9), True),
                                                ((3, 13, 0), False), ((2, 7), False), ((4, 0), False)])
def test_supported_versions(version, supported):
    assert environment.is_supported(version) is supported


def test_the_running_python_is_taken_where_it_will_do():
    assert environment.find_python((3, 11, 2), False, pytest.fail) == [sys.executable]


def test_another_one_on_path_is_found_and_must_really_run():
    there = {"python3.12": None, "python3.11": (3, 11)}  # a shim that does not run, and a Python
    assert environment.find_python((3, 13, 0), False, lambda command: there.get(command[0])) == ["python3.11"]
    assert environment.find_python((3, 9, 1), True, lambda command: (3, 10) if command[1] == "-3.10" else None) == ["py", "-3.10"]


def test_without_one_there_is_none():
    assert environment.find_python((3, 13, 0), False, lambda command: None) is None
    assert environment.find_python((3, 13, 0), False, lambda command: (3, 13)) is None


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


@pytest.mark.parametrize("command", (["examples/quickstart.py", "--help"], ["examples/evaluate.py", "--help"],
                                     ["examples/evaluate.py", "--coefficients=nan"], ["examples/evaluate.py", "--pairs", "1"]))
def test_help_and_wrong_options_are_answered_before_anything_is_installed(command, tmp_path):
    # -S -I: no installed package can be imported, so the answer cannot have needed one
    answer = subprocess.run([sys.executable, "-S", "-c", "import runpy, sys; sys.argv = sys.argv[1:]; sys.path.insert(0, "
                             "sys.argv[0].rsplit('/', 1)[0]); runpy.run_path(sys.argv[0], run_name='__main__')", *command],
                            cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == (0 if "--help" in command else 2)
    assert "usage:" in answer.stdout + answer.stderr
