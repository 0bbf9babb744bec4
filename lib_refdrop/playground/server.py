"""The playground over HTTP: web UIs' ``/sdapi/v1`` as a thin layer over :class:`Playground`, and the page."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr
import uvicorn
from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from ..words import first_line
from .errors import ApiError
from .page import new_page
from .playground import PROGRAM, Playground


def serve(playground: Playground, host: str, port: int) -> None:
    """Serves page and API until interrupted (Ctrl+C)."""
    page = new_page(playground)
    app = gr.mount_gradio_app(new_app(playground), page.queue(), path="/")
    print(f"{PROGRAM} is at http://{host}:{port}/ (API at /sdapi/v1, Ctrl+C ends it).", flush=True)
    uvicorn.run(app, host=host, port=port, log_level="warning")


class Answer(JSONResponse):
    """JSON in plain ASCII, so that there is nothing that cannot be sent."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def new_app(playground: Playground) -> FastAPI:
    """The application; every error is an HTTP status with one sentence in ``{"detail": …}``."""
    app = FastAPI(title=PROGRAM)

    @app.exception_handler(ApiError)
    def answer_error(request: Request, error: ApiError) -> JSONResponse:
        return Answer({"detail": str(error)}, status_code=error.status)

    @app.exception_handler(RequestValidationError)
    def answer_no_json(request: Request, error: RequestValidationError) -> JSONResponse:
        return Answer({"detail": "The request's body is not JSON; send an object such as {\"prompt\": \"a wizard\"}."},
                            status_code=422)

    @app.exception_handler(Exception)
    def answer_fault(request: Request, error: Exception) -> JSONResponse:  # it is logged whole, too
        return Answer({"detail": f"The playground failed ({first_line(error)}); its log says where."}, status_code=500)

    @app.post("/sdapi/v1/txt2img")
    def txt2img(payload: Any = Body(None)) -> JSONResponse:
        return Answer(playground.txt2img(payload))

    @app.post("/sdapi/v1/img2img")
    def img2img(payload: Any = Body(None)) -> JSONResponse:
        return Answer(playground.img2img(payload))

    @app.post("/sdapi/v1/options")
    def set_options(changes: Any = Body(None)) -> None:
        playground.set_options(changes)

    @app.post("/sdapi/v1/interrupt")
    def interrupt() -> dict:
        playground.interrupt()
        return {}

    @app.post("/sdapi/v1/skip")
    def skip() -> None:
        playground.skip()

    for path, answer in {
        "scripts": playground.scripts, "script-info": playground.script_info, "samplers": playground.samplers,
        "schedulers": playground.schedulers, "sd-models": playground.models, "options": playground.options,
        "progress": playground.progress, "upscalers": playground.upscalers, "loras": playground.loras,
    }.items():
        app.add_api_route(f"/sdapi/v1/{path}", _no_arguments(answer), methods=["GET"])
    return app


def _no_arguments(answer):
    """A route that takes whatever query clients send (``?skip_current_image=false``) and answers the same."""
    return lambda: Answer(answer())
