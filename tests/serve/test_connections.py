"""Connections that are old, eager, slow or half closed; and a service that is told to stop before it serves."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.serve.process import Service, running
from benchmarks.serve.wire import PROBE, prepare
from segrefine import AsyncClient
from segrefine.serve.server import Address, url_of

HEAVY: dict[str, Any] = {"phrases": ["the car"] * 200, "samples": 16}
"""Seconds of work."""


@pytest.fixture
def wire(scene: tuple[bytes, bytes, str]) -> bytes:
    """A request that segments."""
    return prepare("/v1/segment", {"files": {"image": scene[0]}, "data": {"phrases": "the car"}}, "application/json")


def wait_until_idle(service: Service) -> None:
    deadline = time.monotonic() + 5
    while service.metric("segrefine_running") + service.metric("segrefine_queue_length"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def read_until(connection: socket.socket, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        received += connection.recv(65536)
    return received


def test_http_1_0(service: Service, wire: bytes) -> None:
    received = service.talk(wire.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"keep-alive", b"close"))
    head, _, body = received.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0] and json.loads(body)["segments"]


def test_requests_one_behind_the_other(service: Service, wire: bytes) -> None:
    last = PROBE.replace(b"Host", b"Connection: close\r\nHost")
    received = service.talk(wire + PROBE + wire + last)
    assert received.count(b"HTTP/1.1 200 ") == 4 and received.count(b'"segments"') == 2
    wait_until_idle(service)


def test_head_is_get_without_its_body(service: Service, http: httpx.Client) -> None:
    logged = len(service.events("request"))
    assert http.head("/v1/refine").status_code == 405
    for path in ("/", "/v2/health/live", "/v2/health/ready"):
        answer, whole = http.head(path), http.get(path)
        assert answer.status_code == 200 and not answer.content
        assert answer.headers["content-length"] == str(len(whole.content))
    entries = [(each["method"], each["route"], each.get("code")) for each in service.events("request")[logged:]]
    assert entries == [("HEAD", "/v1/refine", "bad_method"), ("HEAD", "/", None), ("GET", "/", None)]  # and no probes


def test_who_closes_half_of_the_connection_has_hung_up(service: Service, wire: bytes) -> None:
    before = service.metric("segrefine_abandoned_total")
    assert service.talk(wire, half_close=True) == b""
    wait_until_idle(service)
    assert service.metric("segrefine_abandoned_total") - before == 1


def test_body_that_goes_on_after_its_answer(service: Service) -> None:
    address = httpx.URL(service.url)
    head = b"POST /v1/refine HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((address.host, address.port or 80), timeout=20) as connection:
        for rest in (b"1\r\nx\r\n0\r\n\r\n", b""):  # the first ends after all, and the connection goes on
            connection.sendall(head)
            assert b" 415 " in read_until(connection, b"}")
            connection.sendall(rest)
        deadline = time.monotonic() + 40
        with pytest.raises(OSError):  # noqa: PT011  # a reset, or a broken pipe
            while time.monotonic() < deadline:
                connection.sendall(b"1\r\nx\r\n")
                time.sleep(0.5)


def test_who_is_refused_reads_why_before_it_has_sent_all(tmp_path: Path, scene: tuple[bytes, bytes, str]) -> None:
    with running(tmp_path, "demo-gs", "--max-body-mib", "1") as service, service.http() as http:
        answer = http.post("/v1/segment", files={"image": bytes(50_000_000)}, data={"phrases": "the car"})
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert http.post("/v1/segment", files={"image": scene[0]}, data={"phrases": "the car"}).status_code == 200


def test_async_client_that_is_cancelled_frees_its_place(service: Service, scene: tuple[bytes, bytes, str]) -> None:
    before = service.metric("segrefine_abandoned_total")

    async def ask() -> None:
        async with AsyncClient(service.url) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.segment(scene[0], HEAVY["phrases"], samples=16), 0.7)
            assert (await client.segment(scene[0], ["the car"])).segments

    asyncio.run(ask())
    wait_until_idle(service)
    assert service.metric("segrefine_abandoned_total") - before == 1


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "segrefine.cli", "serve", "demo-gs", "--port", "0", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 1.5])
def test_sigterm_while_it_starts(seconds: float) -> None:
    process = start()
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert "Traceback" not in said and process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM, 0)


def test_sigterm_while_it_warms_up() -> None:
    process = start("--json")
    assert process.stdout is not None
    while process.stdout.readline() != "}\n":
        pass
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert "Traceback" not in said and process.returncode in (0, 128 + signal.SIGTERM)


EARLY = """
import os, signal, uvicorn
from segrefine.cli import main

startup = uvicorn.Server.startup
async def told_before(self, sockets=None):
    os.kill(os.getpid(), signal.SIGTERM)
    await startup(self, sockets)
uvicorn.Server.startup = told_before
main(["serve", "demo-gs", "--port", "0"])
"""


def test_sigterm_before_it_listens_drains_as_one_after() -> None:
    done = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()][:2] == ["listening", "draining"]


def test_address_of_version_6() -> None:
    assert url_of("::1", 80) == "http://[::1]:80"
    with Address(host="::1", port=0).bind() as listening:
        assert listening.family == socket.AF_INET6


@pytest.mark.parametrize("path", ["/v1/refine", "/v1/segment"])
def test_parts_of_no_bytes(http: httpx.Client, path: str, form: Callable[..., dict[str, object]]) -> None:
    answer = http.post(path, files={"image": ("x.png", b""), "mask": ("x.png", b"")}, data={"label": "fox"})
    assert answer.status_code == 422 and answer.json()["hint"]
