"""Requests as bytes that were prepared before, and connections that send them.

The clients of a measurement compute on the cores that the service computes on: what they do there is to be little.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

PROBE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
_END = b"\r\n\r\n"


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
        status, headers = _read_head(await self._reader.readuntil(_END))
        return Reply(status, headers, await self._reader.readexactly(int(headers["content-length"])))


def ask_alone(connection: socket.socket, wire: bytes) -> Reply:
    """The answer to a request's bytes, without an event loop: what a client that is alone does itself is least here."""
    connection.sendall(wire)
    received = b""
    while _END not in received:
        received += _receive(connection)
    head, _, body = received.partition(_END)
    status, headers = _read_head(head)
    while len(body) < int(headers["content-length"]):
        body += _receive(connection)
    return Reply(status, headers, body)


def _receive(connection: socket.socket) -> bytes:
    received = connection.recv(2**20)
    if not received:
        raise ConnectionError("the service closed the connection before its answer was complete")
    return received


def _read_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers, by their names in lower case."""
    first, *lines = head.decode("latin-1").rstrip().splitlines()
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split(" ")[1]), headers


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
