"""The bounded queue, timeouts, clients that go away, signals and the key: each on a service of its own."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from benchmarks.serve.process import Service, running
from benchmarks.serve.wire import prepare

Make = Callable[..., dict[str, Any]]
HEAVY = {"phrases": ["the car"] * 200, "samples": 16}
"""Seconds of work."""


MEDIUM = {"phrases": ["the car"] * 20, "samples": 8}
"""About half a second."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One worker, two places in the queue, little time."""
    words = ("--workers", "1", "--queue", "2", "--timeout", "5", "--body-timeout", "1", "--threads", "1")
    with running(tmp_path_factory.mktemp("small"), "demo", "demo-gs", *words) as service:
        yield service


def wait_until(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_idle(service: Service) -> bool:
    return service.metric("segrefine_running") == service.metric("segrefine_queue_length") == 0


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Service]:
    """The same with enough time for everything, however slow the machine."""
    with running(tmp_path, "demo-gs", "--workers", "1", "--queue", "2", "--timeout", "100") as service:
        yield service


def test_overload_is_turned_away_at_once(patient: Service, scene: tuple[bytes, bytes, str]) -> None:
    def ask(_: int) -> tuple[int, float, str]:
        with patient.http() as http:
            began = time.perf_counter()
            answer = http.post("/v1/segment", files={"image": scene[0]}, data=MEDIUM)
        return answer.status_code, time.perf_counter() - began, answer.headers.get("retry-after", "")

    longest = 0.0
    with ThreadPoolExecutor(20) as pool:
        asked = pool.map(ask, range(20))
        for _ in range(20):
            longest = max(longest, patient.metric("segrefine_queue_length"))
            time.sleep(0.02)
        answers = list(asked)
    served, refused = ([each for each in answers if each[0] == status] for status in (200, 429))
    assert len(served) >= 3 and len(refused) >= 10 and len(served) + len(refused) == 20
    assert all(after.isdecimal() and int(after) >= 1 for _, _, after in refused)
    assert sorted(seconds for _, seconds, _ in refused)[len(refused) // 2] < 0.5
    assert longest <= 2
    assert patient.metric("segrefine_rejections_total") == len(refused)
    assert is_idle(patient)


def test_timeout_ends_the_work(small: Service, scene: tuple[bytes, bytes, str], form: Make) -> None:
    with small.http() as http:
        began = time.monotonic()
        answer = http.post("/v1/segment", files={"image": scene[0]}, data=HEAVY)
        assert 4.5 < time.monotonic() - began < 6.5
        assert (answer.status_code, answer.json()["code"]) == (504, "timeout")
        assert "--timeout" in answer.json()["detail"]
        wait_until(lambda: is_idle(small), 3)  # else the worker would be at it for long
        assert http.post("/v1/refine", **form()).status_code == 200


def test_who_hangs_up_frees_its_place(small: Service, scene: tuple[bytes, bytes, str]) -> None:
    before, logged = small.metric("segrefine_abandoned_total"), len(small.events("request"))
    address, heavy = httpx.URL(small.url), {"files": {"image": scene[0]}, "data": HEAVY}
    for media in ("application/json", "text/event-stream"):
        with socket.create_connection((address.host, address.port or 80)) as wire:
            wire.sendall(prepare("/v1/segment", heavy, media))
            wait_until(lambda: small.metric("segrefine_running") == 1)
            time.sleep(0.3)  # in the midst of it
        wait_until(lambda: is_idle(small), 2)
    assert small.metric("segrefine_abandoned_total") - before == 2
    assert [each.get("code") for each in small.events("request")[logged:]] == ["hung_up"] * 2


def test_body_that_does_not_come(small: Service) -> None:
    address = httpx.URL(small.url)
    head = b"POST /v1/refine HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    with socket.create_connection((address.host, address.port or 80), timeout=20) as wire:
        wire.sendall(head)
        received = b"".join(iter(lambda: wire.recv(65536), b""))  # head and body may come apart; then it hangs up
    assert b" 408 " in received and b"--body-timeout" in received
    assert is_idle(small)


def test_who_hangs_up_within_its_body(small: Service) -> None:
    address = httpx.URL(small.url)
    for _ in range(8):  # more than there are places
        with socket.create_connection((address.host, address.port or 80)) as wire:
            wire.sendall(b"POST /v1/refine HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        wait_until(lambda: is_idle(small), 2)


def test_event_loop_is_never_blocked(small: Service, form: Make, scene: tuple[bytes, bytes, str]) -> None:
    stop, waits = threading.Event(), []

    def probe() -> None:
        with small.http() as http:
            while not stop.is_set():
                began = time.perf_counter()
                assert http.get("/v2/health/live").status_code == 200
                waits.append(time.perf_counter() - began)

    with ThreadPoolExecutor(1) as pool, small.http() as http:
        probing = pool.submit(probe)
        http.post("/v1/segment", files={"image": scene[0]}, data=HEAVY)
        http.post("/v1/refine", files={"image": bytes(40_000_000), "mask": scene[1]}, data={"label": "car"})
        stop.set()
        probing.result()
    assert len(waits) > 50 and max(waits) < 1.0


def test_sigterm_answers_what_was_accepted(tmp_path: Path, form: Make) -> None:
    with running(tmp_path, "demo", "--workers", "1", "--threads", "1") as service:

        def ask(_: int) -> int:
            with service.http() as http:
                return http.post("/v1/refine", **form()).status_code

        with ThreadPoolExecutor(5) as pool:
            answers = pool.map(ask, range(5))
            wait_until(lambda: service.metric("segrefine_queue_length") == 4)
            service.process.send_signal(signal.SIGTERM)
            asked = time.monotonic()
            with service.http() as http:
                while (ready := http.get("/v2/health/ready")).status_code == 200:
                    time.sleep(0.01)
                assert time.monotonic() - asked < 1
                assert ready.json()["code"] == "draining"
                assert http.get("/v2/health/live").status_code == 200
                late = http.post("/v1/refine", **form())
                assert (late.status_code, late.json()["code"]) == (503, "draining") and late.headers["retry-after"]
            assert list(answers) == [200] * 5
        assert service.process.wait(10) == 0


def test_second_signal_ends_it_at_once(tmp_path: Path, scene: tuple[bytes, bytes, str]) -> None:
    with running(tmp_path, "demo-gs", "--threads", "1") as service:

        def ask() -> str:
            with service.http() as http:
                return str(http.post("/v1/segment", files={"image": scene[0]}, data=HEAVY).json()["code"])

        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(ask)
            wait_until(lambda: service.metric("segrefine_running") == 1)
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(5) == 1
            assert asking.result() == "stopped"


def test_time_to_drain_ends(tmp_path: Path, scene: tuple[bytes, bytes, str]) -> None:
    with running(tmp_path, "demo-gs", "--threads", "1", "--drain-timeout", "0.5") as service:

        def ask(media: str) -> str:
            with service.http(headers={"Accept": media}) as http:
                return http.post("/v1/segment", files={"image": scene[0]}, data=HEAVY).text

        with ThreadPoolExecutor(2) as pool:
            plain, events = (pool.submit(ask, media) for media in ("application/json", "text/event-stream"))
            wait_until(lambda: service.metric("segrefine_running") == 2)
            time.sleep(0.3)  # the stream begins
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(8) == 1
            assert json.loads(plain.result())["code"] == "stopped"
            assert "event: problem" in events.result() and '"code": "stopped"' in events.result()


@pytest.mark.slow
def test_an_answer_that_nobody_reads_is_not_kept(small: Service) -> None:
    large = io.BytesIO()
    Image.new("L", (2000, 2000), 128).save(large, "PNG")
    fields = {"phrases": "the car", "maps": "probability", "soft_format": "npy"}
    form = {"files": {"image": large.getvalue()}, "data": fields}
    address, before = httpx.URL(small.url), small.memory()
    with socket.create_connection((address.host, address.port or 80)) as wire:
        wire.sendall(prepare("/v1/segment", form, "application/json"))
        wait_until(lambda: small.memory() > before + 15e6 and is_idle(small), 30)
        time.sleep(32)
        received = b""
        with contextlib.suppress(ConnectionError):
            while part := wire.recv(2**20):
                received += part
    head, _, body = received.partition(b"\r\n\r\n")
    assert len(body) < int(head.partition(b"content-length: ")[2].split(b"\r")[0])


def test_key(tmp_path: Path, form: Make) -> None:
    key = {"SEGREFINE_SERVE_API_KEY": "secret\n"}
    refused: list[dict[str, Any]] = [
        {}, {"Authorization": "Bearer other"}, {"X-API-Key": "ü".encode()}, {"Authorization": "secret"},
    ]  # fmt: skip
    with running(tmp_path, "demo", environment=key) as service, service.http() as http:
        for headers in refused:
            answer = http.post("/v1/refine", headers=headers, **form())
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert http.get("/metrics", headers=headers).status_code == 401
        assert http.get("/v2/health/ready").status_code == 200 and http.get("/").status_code == 200
        for headers in ({"Authorization": "Bearer secret"}, {"X-API-Key": "secret"}):
            assert http.post("/v1/refine", headers=headers, **form()).status_code == 200
