"""The playground over HTTP, as clients of web UIs use it."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from dataclasses import fields

import pytest
import torch
import uvicorn

from lib_refdrop.playground.server import new_app
from lib_refdrop.settings import Settings


@pytest.fixture(scope="module")
def url(playground):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(new_app(playground), host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/sdapi/v1/"
    server.should_exit = True
    thread.join(10)


def ask(address, payload=None):
    """Status and answer; ``payload`` makes it a POST."""
    body = payload if payload is None or isinstance(payload, bytes) else json.dumps(payload).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_save_then_use(url, studio):
    payload = {"prompt": "a wizard waving on snow", "seed": 1, "steps": 3}
    settings = {"enabled": True, "mode": "Save", "reference": "hero"}
    status, saved = ask(url + "txt2img", payload | {"alwayson_scripts": {"refdrop": {"args": [settings]}}})
    assert status == 200 and len(saved["images"]) == 1 and saved["parameters"]["prompt"] == payload["prompt"]
    settings |= {"mode": "Use", "rfg": 0.5}
    status, used = ask(url + "txt2img", payload | {"alwayson_scripts": {"RefDrop": {"args": [settings]}}})
    info = json.loads(used["info"])
    assert status == 200 and info["extra_generation_params"]["RefDrop reference"] == "hero"
    assert used["images"] == saved["images"] or info["seed"] == 1


def test_faults_are_a_status_and_a_sentence(url, studio):
    status, answer = ask(url + "txt2img", {"alwayson_scripts": {"RefDrop": {"args": [{"enabled": True, "rfg": 5}]}}})
    assert status == 422 and answer["detail"] == "RFG coefficient must be a number from -1 to 1, not 5."
    status, answer = ask(url + "txt2img", b'{"alwayson_scripts": {"RefDrop": {"args": [true, NaN]}}}')
    assert status == 422 and "nan" in answer["detail"]
    status, answer = ask(url + "txt2img", {"alwayson_scripts": {"RefDrop": {"args": [True]}}})
    assert status == 400 and "Save first" in answer["detail"]
    status, answer = ask(url + "txt2img", b"no json")
    assert status == 422 and "JSON" in answer["detail"]


def test_scripts_say_what_they_take(url):
    script, in_img2img = ask(url + "script-info")[1]
    assert not script["is_img2img"] and in_img2img["is_img2img"] and in_img2img["args"] == script["args"]
    labels = [argument["label"] for argument in script["args"]]
    assert script["name"] == "refdrop" and script["is_alwayson"] and len(labels) == len(fields(Settings))
    assert labels[:3] == ["Enabled", "RFG coefficient", "Mode"]
    assert script["args"][1]["minimum"] == -1 and script["args"][2]["choices"] == ["Save", "Use"]


def test_progress_options_and_lists(url):
    progress = ask(url + "progress?skip_current_image=false")[1]
    assert progress["progress"] == 0 and progress["state"]["job_count"] == 0 and progress["current_image"] is None
    assert "Euler a" in [sampler["name"] for sampler in ask(url + "samplers")[1]]
    title = ask(url + "sd-models")[1][0]["title"]
    assert ask(url + "options")[1]["sd_model_checkpoint"] == title
    assert ask(url + "options", {"sd_model_checkpoint": title})[0] == 200
    assert "--model" in ask(url + "options", {"sd_model_checkpoint": "another"})[1]["detail"]
    assert ask(url + "interrupt", {})[0] == 200


@pytest.mark.parametrize(
    "body, status, word",
    [
        (
            b'{"steps": 1, "foo": NaN, "bar": -Infinity, "s": "\\ud800", '
            b'"alwayson_scripts": {"refdrop": {"args": [false, NaN]}}}',
            200,
            "",
        ),
        (b'{"prompt": "\\ud800"}', 422, "prompt holds half of a character"),
        (b'{"negative_prompt": "a \\udfff"}', 422, "negative_prompt holds half"),
        (b'{"sampler_name": "\\ud800"}', 422, "half of a character"),
        (b'{"alwayson_scripts": {"\\ud800": {"args": []}}}', 422, "half of a character"),
        (b'{"override_settings": {"\\ud800": 1}}', 422, "no option named"),
        (b'{"override_settings": {"samples_format": "\\ud800"}}', 422, "samples_format holds half"),
        (b'{"infotext": "\\ud800"}', 422, "infotext holds half"),
        (b'{"cfg_scale": Infinity}', 422, "cfg_scale must be a number from 1 to 30, not inf"),
        (b'{"steps": 1' + b"0" * 4000 + b"}", 422, "steps must be a whole number"),
        (b"[" * 100_000, 400, ""),
        (b"\xff\xfe", 422, "not JSON"),
        (b"null", 422, "JSON object"),
        (b"[1]", 422, "JSON object"),
    ],
)
def test_whatever_is_sent_the_answer_is_json_with_a_sentence(url, studio, body, status, word):
    got, answer = ask(url + "txt2img", body)
    assert got == status and word in answer.get("detail", "") and len(answer.get("detail", "")) < 1000


@pytest.mark.parametrize(
    "body",
    [
        b'{"samples_format": "\\ud800"}',
        b'{"s_min_uncond": NaN}',
        b'{"refdrop_remember_count": 1e400}',
        b'{"\\ud800": 1}',
        b'{"samples_format": ["png"]}',
        b"NaN",
    ],
)
def test_an_option_that_cannot_be_is_not_taken(url, body):
    before = ask(url + "options")[1]
    status, answer = ask(url + "options", body)
    assert status == 422 and answer["detail"] and ask(url + "options")[1] == before


def test_what_comes_back_in_a_sentence_is_short(url):
    status, answer = ask(url + "txt2img", {"steps": "x" * 10**6})
    assert status == 422 and len(answer["detail"]) < 300
    status, answer = ask(url + "txt2img", {"alwayson_scripts": {"<script>\n" * 10**5: {}}})
    assert status == 422 and len(answer["detail"]) < 300 and "\n" not in answer["detail"]


def test_a_setting_of_megabytes_comes_back_short(url, studio):
    args = [{"enabled": True, "mode": "<script>" * 10**5}]
    status, answer = ask(url + "txt2img", {"alwayson_scripts": {"RefDrop": {"args": args}}})
    assert status == 422 and len(answer["detail"]) < 300 and "\n" not in answer["detail"]


def test_known_fields_alone_come_back(url, studio):
    answer = ask(url + "txt2img", {"steps": 1, "foo": "bar", "prompt": "a king", "init_images": ["x"]})[1]
    assert answer["parameters"]["prompt"] == "a king" and answer["parameters"]["cfg_scale"] == 7.0
    assert not {"foo", "init_images"} & set(answer["parameters"])


def test_no_memory_left_is_told_as_such(url, studio):
    """Really: an allocation that no machine can make, in the middle of the model."""
    handle = studio.playground.model.pipeline.unet.register_forward_pre_hook(lambda *_: torch.empty(2**50))
    try:
        status, answer = ask(url + "txt2img", {"steps": 1})
    finally:
        handle.remove()
    assert status == 507 and "not enough memory" in answer["detail"]
    assert ask(url + "txt2img", {"steps": 1})[0] == 200


def test_a_fault_of_the_playground_is_a_sentence_too(url, studio):
    handle = studio.playground.model.pipeline.unet.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(
        RuntimeError("out of luck\nand more")))
    try:
        status, answer = ask(url + "txt2img", {"steps": 1})
    finally:
        handle.remove()
    assert status == 500 and "out of luck" in answer["detail"] and "\n" not in answer["detail"]


def test_img2img_over_http(url, studio):
    made = ask(url + "txt2img", {"prompt": "a king", "steps": 2})[1]["images"][0]
    for picture in (made, "data:image/png;base64," + made):
        status, answer = ask(url + "img2img", {"prompt": "a king", "steps": 2, "init_images": [picture]})
        assert status == 200 and len(answer["images"]) == 1 and answer["parameters"]["denoising_strength"] == 0.75
