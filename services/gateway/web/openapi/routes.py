"""The document, and the page that shows it."""

import hashlib
import json
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from services.gateway.web.openapi.document import build_openapi

_PAGE = Path(__file__).parent / "page"
_FILES = {"": "index.html", "page.js": "page.js", "page.css": "page.css"}


def openapi_routes() -> list[BaseRoute]:
    """All routes about the description of REST."""
    shown = [Route(f"/docs/{name}" if name else "/docs", _file(file)) for name, file in _FILES.items()]
    return [Route("/openapi.json", _document), *shown]


async def _document(request: Request) -> Response:
    body, etag = _serialized()
    headers = {"etag": etag, "cache-control": "public, max-age=60"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


@cache
def _serialized() -> tuple[bytes, str]:
    body = json.dumps(build_openapi(), separators=(",", ":")).encode()
    return body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def _file(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return FileResponse(_PAGE / name, headers={"cache-control": "no-cache"})

    return answer
