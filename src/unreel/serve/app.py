"""The local page as a web application. It listens to this machine alone and reads nothing but the data it was given."""

from __future__ import annotations

import base64
import functools
import mimetypes
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from unreel.core.errors import UnreelError
from unreel.report.pages import clip_of, render_page
from unreel.serve.project import Project

HOST = "127.0.0.1"
_LARGEST_BODY = 64 * 1024
_MOST = 200
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; media-src 'self'; style-src 'self' 'unsafe-inline'; "
        "script-src 'self'; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HERE = Path(__file__).parent


class SearchWords(BaseModel, extra="forbid"):
    """Clips to look for, and clips to stay away from."""

    wanted: Annotated[list[int], Field(min_length=1, max_length=_MOST)]
    unwanted: Annotated[list[int], Field(max_length=_MOST)] = []


class LabelWords(BaseModel, extra="forbid"):
    """What a clip, or a span of it, shows; an empty label takes it back."""

    clip: int
    label: Annotated[str, Field(max_length=200)]
    start_s: float | None = None
    end_s: float | None = None


def create_app(project: Project) -> FastAPI:
    """The application over one project."""
    app = FastAPI(title="unreel", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])

    @app.middleware("http")
    async def guard(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        refused = _refusal(request)
        if refused is None and request.method == "POST":
            body = b""
            async for piece in request.stream():
                body += piece
                if len(body) > _LARGEST_BODY:
                    refused = 413, "the request is too large"
                    break
            request._body = body
        response = await go_on(request) if refused is None else _problem(*refused)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(UnreelError)
    async def wrong(request: Request, error: UnreelError) -> Response:
        del request
        return _problem(400, str(error))

    picture = functools.lru_cache(maxsize=4096)(lambda row: clip_of(project.file(row)))

    def shown(row: int, **more: Any) -> dict[str, Any]:
        return {"clip": row, "name": project.name(row), "frames": picture(row).frames, **more}

    @app.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse(render_page("app.html.jinja", title="unreel", folder=_HERE, count=len(project.rows)))

    @app.get("/app.js")
    def script() -> FileResponse:
        return FileResponse(_HERE / "app.js", media_type="text/javascript")

    @app.get("/api/clips")
    def clips(offset: Annotated[int, Query(ge=0)] = 0, limit: Annotated[int, Query(ge=1, le=_MOST)] = 48) -> Any:
        return {"count": len(project.rows), "clips": [shown(row) for row in project.rows[offset : offset + limit]]}

    @app.get("/api/telling")
    def telling() -> Any:
        return {"clips": [shown(row) for row in project.most_telling()]}

    @app.post("/api/search")
    def search(words: SearchWords) -> Any:
        found = project.search(words.wanted, words.unwanted)
        return {"clips": [shown(row, similarity=round(value, 4)) for row, value in found]}

    @app.get("/api/labels")
    def labels() -> Any:
        known = project.labels
        return {
            "file": str(project.labels_file),
            "labels": [{**asdict(one), "name": project.name(one.row)} for one in known],
            "classes": dict(Counter(one.label for one in known).most_common()),
        }

    @app.post("/api/labels")
    def label(words: LabelWords) -> Any:
        project.label(words.clip, words.label, words.start_s, words.end_s)
        return labels()

    @app.post("/api/train")
    def train() -> Any:
        return project.train()

    @app.get("/api/predictions")
    def predictions() -> Any:
        return {
            "predictions": [
                {**shown(one.row), "label": one.label, "probability": round(one.probability, 4)}
                for one in project.guesses
            ]
        }

    @app.get("/pictures/{row}")
    def frames(row: int) -> Response:
        data = picture(row).picture
        if not data:
            raise HTTPException(404, "there is no picture of this clip")
        return Response(base64.b64decode(data.partition(",")[2]), media_type="image/webp")

    @app.get("/media/{row}")
    def media(row: int) -> FileResponse:
        file = project.file(row)
        return FileResponse(file, media_type=mimetypes.guess_type(file.name)[0] or "application/octet-stream")

    return app


def _refusal(request: Request) -> tuple[int, str] | None:
    """Why a request is not answered: another page's, or too large by its own word."""
    origin = request.headers.get("origin")
    host = request.headers.get("host", "")
    if origin is not None and origin != f"http://{host}":
        return 403, "requests of other pages are not answered"
    if request.method == "POST":
        size = request.headers.get("content-length", "0")
        if not size.isdigit() or int(size) > _LARGEST_BODY:
            return 413, "the request is too large"
        if int(size) and request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return 415, "expected application/json"
    return None


def _problem(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status)
