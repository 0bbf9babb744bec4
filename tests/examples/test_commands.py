"""The two commands from the outside: options, and the whole way on the bundled model."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples" / "demo-model"
needs_model = pytest.mark.skipif(not (MODEL / "reader" / "reader.safetensors").exists(), reason="no trained model yet")
sys.path.insert(0, str(ROOT / "examples"))

import evaluate


def run(*command: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=900,
                          env={**os.environ, "REFDROP_ENVIRONMENT": "here", **environment})


def test_coefficients_are_sorted_and_each_there_once():
    assert evaluate.coefficients("0.3,-0.3, 0,-0.0,0.3,") == [-0.3, 0.0, 0.3]


@pytest.mark.parametrize("text", ("", ",", "a", "0.3,b", "nan", "inf", "1.5", "-1.01"))
def test_other_coefficients_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        evaluate.coefficients(text)


def test_a_folder_that_cannot_be_made_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    answer = run("examples/quickstart.py", "--out", str(tmp_path / "file" / "out"))
    assert answer.returncode == 1
    assert "choose another with --out" in answer.stderr or "no model" in answer.stderr
    assert "Traceback" not in answer.stderr


@needs_model
def test_a_web_ui_that_is_not_there_is_told_in_a_sentence(tmp_path):
    answer = run("examples/evaluate.py", "--url", "http://127.0.0.1:9", "--pairs", "2", "--out", str(tmp_path))
    assert answer.returncode == 1
    assert "does not answer" in answer.stderr and "Traceback" not in answer.stderr


@pytest.mark.parametrize("words", (("--ablate", "--methods"), ("--ablate", "--open"), ("--ablate", "--url", "http://a")))
def test_measurements_that_do_not_go_together_are_told(words, capsys):
    with pytest.raises(SystemExit):
        evaluate.parse(list(words))
    assert "--ablate" in capsys.readouterr().err.splitlines()[-1]


@needs_model
def test_a_method_that_is_not_there_is_told_in_a_sentence(tmp_path):
    answer = run("examples/evaluate.py", "--methods", "Nothing like it", "--pairs", "2", "--out", str(tmp_path))
    assert answer.returncode == 1
    assert "no method named 'Nothing like it'; there is: RFG" in answer.stderr and "Traceback" not in answer.stderr


@needs_model
@pytest.mark.slow
def test_methods_are_drawn_in_one_figure_and_one_table(tmp_path):
    answer = run("examples/evaluate.py", "--methods", "RFG", "--seed", "5", "--pairs", "2", "--steps", "4",
                 "--out", str(tmp_path))
    assert answer.returncode == 0, answer.stderr
    report = json.loads((tmp_path / "methods.json").read_text())
    (method,) = report["methods"]
    assert [entry["settings"] for entry in method["curve"]] == [{"rfg": c} for c in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)]
    assert method["curve"][-1]["agreement"] >= report["plain"]["agreement"]
    assert method["time_over_plain"]["pairs"] == 2 and method["time_over_plain"]["median"] > 0
    assert (tmp_path / "methods.txt").read_text().strip() in answer.stdout
    assert Image.open(tmp_path / "methods.png").size == (1240, 560)


@needs_model
@pytest.mark.slow
def test_quickstart_shows_the_product_at_work(tmp_path):
    answer = run("examples/quickstart.py", "--quick", "--seed", "11", "--out", str(tmp_path))
    assert answer.returncode == 0, answer.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["pairs"] >= 4
    for field in ("agreement", "prompt_adherence"):
        assert set(report[field]) == {"plain", "consistent", "diverse"}
        assert all(0 <= value <= 1 for value in report[field].values())
    assert report["copy_rate"]["plain"] <= report["ground_agreement"]["plain"] + report["pose_agreement"]["plain"]
    assert set(report["diversity"]) == {"plain", "diverse"}
    assert report["agreement"]["consistent"] > report["agreement"]["diverse"]
    assert report["self_reproduction_max_abs"] <= 2
    assert report["off_identical"] is True
    assert report["reference_files"] == 1
    files = list((tmp_path / "references").iterdir())
    # The one that is left is the last; what is told is the mean of all, whose prompts are of other lengths.
    assert [file.stat().st_size for file in files] == [pytest.approx(report["reference_bytes"], rel=0.001)]
    assert all(seconds > 0 for seconds in report["seconds"].values()) and len(report["seconds"]) == 3
    assert Image.open(tmp_path / "grid.png").width > 600
    assert "agreement" in answer.stdout and "grid.png" in answer.stdout


@needs_model
@pytest.mark.slow
def test_evaluate_writes_the_curve_and_the_same_one_again(tmp_path):
    curves = []
    for name in ("one", "two"):
        answer = run("examples/evaluate.py", "--seed", "5", "--pairs", "2", "--steps", "3", "--coefficients=0,0.5",
                     "--out", str(tmp_path / name))
        assert answer.returncode == 0, answer.stderr
        report = json.loads((tmp_path / name / "report.json").read_text())
        curves.append(report["curve"])
        assert [entry["c"] for entry in report["curve"]] == [0, 0.5]
        assert {"c", "agreement", "agreement_by_attribute", "prompt_adherence", "diversity", "subject_agreement",
                "sky_agreement", "ground_agreement", "pose_agreement", "copy_rate"} <= set(report["curve"][0])
        assert "copy rate" in answer.stdout
        assert report["zero_identical"] is True
        assert report["curve"][0]["agreement"] == report["agreement"]["plain"]
        assert Image.open(tmp_path / name / "curve.png").size == (760, 920)
    assert curves[0] == curves[1]
