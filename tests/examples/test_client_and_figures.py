"""Payloads are what any API client sends, refusals are sentences, and figures hold what they were given."""

from __future__ import annotations

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from demo.client import HttpClient, Recipe, RequestRefused
from demo.figures import Line, curve, grid
from demo.pairs import Order
from PIL import Image

ORDER = Order("king", "up", "snow", 9)


def png(colour=(200, 30, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def web_ui():
    """A server whose answer, ``(status, body)``, a test sets; it keeps what it was sent."""
    class Handler(BaseHTTPRequestHandler):
        answer, received = (200, b""), []

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.received.append((self.path, json.loads(body)))
            self.send_response(self.answer[0])
            self.end_headers()
            self.wfile.write(self.answer[1])

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Handler, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_a_payload_is_a_web_uis():
    payload = Recipe(steps=12).payload(ORDER, {"enabled": True, "mode": "Use", "rfg": 0.3})
    assert payload["prompt"] == "a king arms up on snow"
    assert (payload["seed"], payload["steps"], payload["width"]) == (9, 12, 128)
    assert payload["alwayson_scripts"] == {"RefDrop": {"args": [{"enabled": True, "mode": "Use", "rfg": 0.3}]}}
    assert "alwayson_scripts" not in Recipe().payload(ORDER)


def test_a_web_uis_answer_is_understood(web_ui):
    handler, url = web_ui
    image = base64.b64encode(png()).decode()
    handler.answer = 200, json.dumps({"images": ["data:image/png;base64," + image, image], "parameters": {},
                                      "info": json.dumps({"infotexts": ["a king, RefDrop RFG: 0.3"]})}).encode()
    answer = HttpClient(url).txt2img(Recipe().payload(ORDER))
    assert handler.received[-1][0] == "/sdapi/v1/txt2img"
    assert answer.files == [png(), png()]
    assert answer.image.getpixel((3, 3)) == (200, 30, 30)
    assert answer.guided and answer.seconds > 0


@pytest.mark.parametrize("status, body, words", [
    (422, b'{"detail": "RFG coefficient must be a number from -1 to 1, not 5."}', "not 5"),
    (500, b'{"error": "RefDropError", "detail": "", "errors": "There is no reference"}', "There is no reference"),
    (404, b"<html>nothing here</html>", "nothing here"),
    (200, b"<html>another program</html>", "does not answer as a web UI"),
])
def test_a_refusal_is_a_sentence(web_ui, status, body, words):
    handler, url = web_ui
    handler.answer = status, body
    with pytest.raises(RequestRefused, match=words):
        HttpClient(url).txt2img({})


def test_a_grid_holds_every_picture_in_its_row():
    red, blue = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    captions = {"one": ["a long prompt that needs two lines", "b"]}
    sheet = np.asarray(grid({"one": [red, red], "two": [blue, red]}, captions, cell=80))
    reds, blues = ((sheet == colour).all(axis=2) for colour in ((255, 0, 0), (0, 0, 255)))
    assert reds.sum() == 3 * 80 * 80
    assert blues.sum() == 80 * 80
    assert np.argwhere(blues)[:, 0].min() > np.argwhere(reds)[:, 0].min() + 80


@pytest.mark.parametrize("xs", ([0.3], [-0.3, 0.0, 0.6]))
def test_a_curve_is_drawn_for_one_coefficient_and_for_many(xs):
    line = Line("agreement", [0.5] * len(xs), [(0.4, 0.6)] * len(xs))
    picture = curve(xs, [line, line], "title", "c", size=(400, 300))
    assert picture.size == (400, 300)
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 10
