"""The playground over HTTP, as clients of web UIs use it."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
import uvicorn

from lib_refdrop.playground.server import new_app


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
    assert script["name"] == "refdrop" and script["is_alwayson"] and len(labels) == 14
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
