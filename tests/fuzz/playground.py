"""Spoilt files and malformed requests sent to the playground: a picture that says what guided it, or one sentence."""

from __future__ import annotations

import base64
import copy
import io
import json
import random
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from lib_refdrop.playground import DEFAULT_MODEL, ApiError, Playground
from lib_refdrop.playground.server import new_app

from .files import LONGEST_SENTENCE, SLOW, Findings, is_sentence, spoilt
from .forging import Forged
from .mutations import ODD

FORMAT_1 = Path(__file__).resolve().parents[1] / "files"
SMALL = {"prompt": "a pirate arms up on grass", "seed": 7, "steps": 2, "width": 64, "height": 64}


def run_files(count: int, seed: int, playground: Playground | None = None) -> Findings:
    """``count`` spoilt files of the bundled model, used as the API does: for the picture,
    and to be saved and told of."""
    findings = Findings()
    with tempfile.TemporaryDirectory() as folder:
        playground = playground or Playground(DEFAULT_MODEL)
        playground.refdrop_dir = Path(folder)
        plain = _draw(playground)[0]
        seeds = []
        for keep in ("Exact", "Balanced", "Small", "Tiny"):
            _draw(playground, {"mode": "Save", "reference": "seed", "keep": keep, "replace": True}, seed=3)
            seeds.append(Forged.of(Path(folder) / "seed.safetensors"))
        (Path(folder) / "seed.safetensors").unlink()
        seeds += [Forged.of(path) for path in sorted(FORMAT_1.glob("*.safetensors"))]
        for number, (_, about) in enumerate(spoilt(seeds, Path(folder), count, seed)):
            name = "hero" if number % 3 else ""  # the newest, of which there is no other
            started = time.process_time()
            outcome, is_bad = _outcome(playground, {"mode": "Use", "reference": name, "rfg": 0.4}, plain)
            seconds = time.process_time() - started
            if seconds > SLOW + 2:  # pictures of this model take about a second
                outcome, is_bad = f"slow ({outcome})", True
            findings.add(outcome, f"{about}, {seconds:.2f} s", seconds, is_bad)
        if not np.array_equal(_draw(playground)[0], plain):
            findings.add("plain picture changed", "after all files", 0, True)
    return findings


def _draw(playground: Playground, settings: dict | None = None, **more: Any) -> tuple[np.ndarray, str]:
    """The picture, and what is said beside it."""
    request: dict[str, Any] = {**SMALL, **more}
    if settings:
        request["alwayson_scripts"] = {"RefDrop": {"args": [{"enabled": True, **settings}]}}
    answer = playground.txt2img(request)
    picture = Image.open(io.BytesIO(base64.b64decode(answer["images"][0])))
    return np.asarray(picture), " ".join(json.loads(answer["info"]).get("comments", []))


def _outcome(playground: Playground, settings: dict, plain: np.ndarray) -> tuple[str, bool]:
    try:
        picture, said = _draw(playground, settings)
    except ApiError as problem:
        fits = is_sentence(str(problem)) or (not settings["reference"] and "There is no reference" in str(problem))
        return ("one sentence", False) if fits and problem.status in (400, 422, 507) else (
            f"{problem.status}, no sentence: {str(problem)[:300]!r}", True)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}", True
    if "Guided by 'hero'" not in said or np.array_equal(picture, plain):
        return f"not guided: {said[:200]!r}", True
    return "guided", False


# Requests ------------------------------------------------------------------------------------------------------------


class Served:
    """The playground over HTTP, in this process, for as long as the ``with`` lasts."""

    def __init__(self, playground: Playground) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        config = uvicorn.Config(new_app(playground), "127.0.0.1", self._port, log_level="critical")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Served:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)

    def ask(self, method: str, path: str, body: bytes | None, kind: str) -> tuple[int, Any]:
        """Status and answer. Raises ValueError for an answer that is no JSON, OSError for none at all."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/sdapi/v1/{path}", body, {"Content-Type": kind},
                                         method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            body = error.read()
            return error.code, json.loads(body) if body or error.code >= 400 else {"detail": "See there."}


def run_requests(count: int, seed: int, playground: Playground | None = None) -> Findings:
    """``count`` malformed requests; afterwards the plain picture is what it was."""
    findings = Findings()
    with tempfile.TemporaryDirectory() as folder:
        playground = playground or Playground(DEFAULT_MODEL)
        playground.refdrop_dir = Path(folder)
        plain = _draw(playground)[0]
        _draw(playground, {"mode": "Save", "reference": "hero"}, seed=3)
        picture = io.BytesIO()
        Image.fromarray(plain).save(picture, "PNG")
        with Served(playground) as served:
            before = json.dumps(served.ask("GET", "options", None, "application/json")[1]).encode()
            for number in range(count):
                chance = random.Random(f"{seed}/{number}")
                method, path, body, kind, about = request(chance, base64.b64encode(picture.getvalue()).decode())
                started = time.process_time()
                outcome, is_bad = answer_to(served, method, path, body, kind)
                seconds = time.process_time() - started
                findings.add(outcome, f"request {number} of seed {seed}: {about}, {seconds:.1f} s", seconds, is_bad)
                if outcome.startswith("no answer"):
                    break  # the one after it would wait for it
            served.ask("POST", "options", before, "application/json")
        if not np.array_equal(_draw(playground)[0], plain):
            findings.add("plain picture changed", "after all requests", 0, True)
    return findings


def request(chance: random.Random, picture: str) -> tuple[str, str, bytes | None, str, str]:
    """Method, path, body, content type, and what was made of it in words."""
    tab = chance.choice(("txt2img", "txt2img", "img2img"))
    settings = {"enabled": True, "mode": chance.choice(("Use", "Save")), "reference": "hero", "rfg": 0.3,
                "replace": True, "on_problem": chance.choice(("Stop", "Continue"))}
    payload: dict[str, Any] = {**SMALL, "steps": 1, "alwayson_scripts": {"RefDrop": {"args": [settings]}}}
    if tab == "img2img":
        payload |= {"init_images": [picture], "denoising_strength": 0.5}
    way = chance.random()
    if way < 0.35:
        key = chance.choice([*settings, *SETTINGS])
        settings[key] = _odd(chance)
        about = f"setting {key!r} is {_short(settings[key])}"
    elif way < 0.5:
        values = [True, 0.3, "Use", False, "Disk", 100.0, True, True, True, "hero", True, "Stop", "Balanced", 0.0]
        place = chance.randrange(len(values))
        values[place] = _odd(chance)
        payload["alwayson_scripts"]["RefDrop"]["args"] = values[:chance.randrange(place + 1, len(values) + 2)]
        about = f"argument {place} is {_short(values[place])}"
    elif way < 0.8:
        key = chance.choice([*payload, *FIELDS])
        payload[key] = _odd(chance)
        about = f"field {key!r} is {_short(payload[key])}"
    elif way < 0.88:
        value = _odd(chance)
        payload["alwayson_scripts"] = chance.choice((
            value, {"RefDrop": value}, {"RefDrop": {"args": value}}, {"RefDrop": {"args": [value]}},
            {chance.choice(("\ud800", "x" * 10**5, "", "refdrop ")): {"args": [settings]}},
            {"RefDrop": {"args": [{**settings, "\ud800": 1}]}}, {"RefDrop": {"args": [[[]] * 99]}}))
        about = f"scripts are {_short(payload['alwayson_scripts'])}"
    elif way < 0.94:
        name = chance.choice(("sd_model_checkpoint", "refdrop_inner_passes", "refdrop_remember",
                              "refdrop_remember_count", "CLIP_stop_at_last_layers", "no_such_option", "\ud800"))
        body = json.dumps({name: _odd(chance)}).encode()
        return "POST", "options", body, "application/json", f"option {body[:120]!r}"
    else:
        whole = json.dumps(payload).encode()
        body = chance.choice((b"", b"{", b"null", b"[]", b"1", b'"x"', whole[:len(whole) // 2], whole + b"}",
        b"\xff\xfe", b"NaN",
                              b"[" * 100_000, b'{"a":' * 20_000, b"0" * 5000, chance.randbytes(200),
                              b'{"steps": 1e999}',
                              b'{"steps": 1' + b"0" * 5000 + b"}", b"a=1&b=2"))
        path = chance.choice((tab, tab, "options", "interrupt", "skip", "progress", "scripts", "nowhere", "../txt2img",
                              "txt2img/"))
        method = chance.choice(("POST", "POST", "GET", "PUT", "DELETE"))
        kind = chance.choice(("application/json", "text/plain", "multipart/form-data",
                              "application/x-www-form-urlencoded"))
        return method, path, None if method == "GET" else body, kind, f"{method} {path} {kind} {body[:60]!r}"
    return "POST", tab, json.dumps(payload).encode(), "application/json", about


def answer_to(served: Served, method: str, path: str, body: bytes | None, kind: str) -> tuple[str, bool]:
    """What a request led to, and whether that is a fault."""
    try:
        status, answer = served.ask(method, path, body, kind)
    except ValueError:
        return "an answer that is no JSON", True
    except OSError as error:
        return f"no answer: {type(error).__name__}", True
    if status >= 300:
        detail = answer.get("detail") if isinstance(answer, dict) else None
        fits = (isinstance(detail, str) and detail.isprintable() and len(detail) <= LONGEST_SENTENCE
                and "RefDrop failed" not in detail)
        return f"{status}" if fits else f"{status}, no sentence: {str(detail)[:200]!r}", status == 500 or not fits
    if path in ("txt2img", "img2img") and body and not json.loads(answer["info"]).get("comments"):
        asked = json.loads(body)
        scripts = asked.get("alwayson_scripts") if isinstance(asked, dict) else None
        args = scripts.get("RefDrop", {}).get("args") if isinstance(scripts, dict) and scripts.get("RefDrop") else None
        on = args and (args[0] is True or (isinstance(args[0], dict) and args[0].get("enabled") is True))
        if on:
            return "200, and nothing is said of the reference", True
    return "200", False


SETTINGS = ("store", "save_percent", "layer_input", "layer_middle", "layer_output", "enabled_hr", "keep", "budget",
            "foo",
            "\ud800")
FIELDS = ("negative_prompt", "cfg_scale", "sampler_name", "scheduler", "batch_size", "n_iter", "send_images", "subseed",
          "subseed_strength", "enable_hr", "hr_scale", "hr_upscaler", "denoising_strength", "infotext",
          "override_settings",
          "styles", "refiner_checkpoint", "init_images", "mask", "script_name", "sampler_index", "foo", "\ud800",
          "x" * 10_000)


def _odd(chance: random.Random) -> Any:
    more = ["hero", "no such reference", "a/b", "con", "\u00a0hero", "a\u200bb", "1" * 5000, "x" * 10**6, [[]] * 50,
    {"\ud800": 1},
            {"a": {"b": {"c": [1]}}}, ["\ud800"], -0.0, "−0.3", "0.3 ", "true", [True], "𝟙", "ﬁ",
            "\x00", "{}"]
    return copy.deepcopy(chance.choice(ODD + more))


def _short(value: Any) -> str:
    return ascii(value)[:80]
