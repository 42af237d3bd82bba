"""The page at `/`, and what it is made of: a few files, read once. Nothing of it is fetched from elsewhere."""

from __future__ import annotations

import hashlib
import json
import mimetypes
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from segrefine.assets import demo_samples

_FOLDER = Path(__file__).parent / "page"
_TYPES = {".js": "text/javascript", ".html": "text/html", ".css": "text/css", ".svg": "image/svg+xml"}


def add_pages(app: FastAPI) -> None:
    """Adds the page, its files, the sample scenes, and /docs."""
    files = {f"page/{path.name}": path for path in _FOLDER.iterdir() if path.is_file()}
    labels = json.loads((demo_samples() / "labels.json").read_text())
    for kind in ("images", "masks"):
        files |= {f"samples/{kind}/{name}.png": demo_samples() / kind / f"{name}.png" for name in labels}
    kept = {name: (path.read_bytes(), _media_type(path)) for name, path in files.items()}
    kept["samples/labels.json"] = (json.dumps(labels).encode(), "application/json")

    def answer(request: Request, name: str) -> Response:
        if name not in kept:  # a look-up, so that no name leads anywhere else
            raise HTTPException(404)
        content, media = kept[name]
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media, headers=headers)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return answer(request, "page/index.html")

    @app.get("/docs", include_in_schema=False)
    async def documentation(request: Request) -> Response:
        return answer(request, "page/docs.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def part(request: Request, name: str) -> Response:
        return answer(request, f"page/{name}")

    @app.get("/samples/{name:path}", include_in_schema=False)
    async def sample(request: Request, name: str) -> Response:
        return answer(request, f"samples/{name}")


def _media_type(path: Path) -> str:
    return _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
