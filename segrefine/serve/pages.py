"""The page at `/` and its files, which are read once. The page fetches nothing from other hosts."""

from __future__ import annotations

import hashlib
import json
import mimetypes
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from segrefine.assets import demo_samples, photo_samples

_FOLDER = Path(__file__).parent / "page"
_TYPES = {".js": "text/javascript", ".html": "text/html", ".css": "text/css", ".svg": "image/svg+xml"}


def add_pages(app: FastAPI) -> None:
    """Add the page, its files, the samples, and /docs."""
    kept = {f"page/{path.name}": _read(path) for path in _FOLDER.iterdir() if path.is_file()}
    listing: dict[str, list[dict[str, str]]] = {}
    for kind, folder in (("photographs", photo_samples()), ("scenes", demo_samples())):
        samples, files = _list_samples(kind, folder)
        listing[kind] = samples
        kept |= files
    kept["samples/list.json"] = json.dumps(listing).encode(), "application/json"

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


def _list_samples(kind: str, folder: Path) -> tuple[list[dict[str, str]], dict[str, tuple[bytes, str]]]:
    """The samples of a folder as the page lists them, and their files by path below `/`."""
    samples: list[dict[str, str]] = []
    files: dict[str, tuple[bytes, str]] = {}
    for name, label in json.loads((folder / "labels.json").read_text()).items():
        sample = {"name": name, "label": label}
        for key in ("image", "mask"):
            (path,) = (folder / f"{key}s").glob(f"{name}.*")
            sample[key] = f"samples/{kind}/{key}s/{path.name}"
            files[sample[key]] = _read(path)
        samples.append(sample)
    return samples, files


def _read(path: Path) -> tuple[bytes, str]:
    """A file's content and its media type."""
    return path.read_bytes(), _media_type(path)


def _media_type(path: Path) -> str:
    return _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
