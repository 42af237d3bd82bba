"""Requests as bytes that were prepared before, and connections in asyncio that send them.

The clients of a measurement compute on the cores that the service computes on: what they do there is to be little.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

PROBE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass(frozen=True)
class Reply:
    """An answer: its status, its headers by their names in lower case, and its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """A connection to a service, for one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, wire: bytes) -> Reply:
        """The answer to a request's bytes."""
        self._writer.write(wire)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return Reply(int(head[0].split(" ")[1]), headers, body)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """A connection to the service at `url`."""
    address = httpx.URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


def prepare(path: str, form: Mapping[str, Any], accept: str = "image/png") -> bytes:
    """The bytes of a request with a form, as keywords of httpx."""
    files = {name: (name, content) for name, content in form["files"].items()}
    request = httpx.Request("POST", f"http://x{path}", files=files, data=form["data"], headers={"Accept": accept})
    content = request.read()
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + content
