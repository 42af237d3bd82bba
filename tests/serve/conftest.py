from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from segrefine.assets import demo_samples

Form = dict[str, Any]


@dataclass(frozen=True)
class Service:
    """A service in a process of its own."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)

    def events(self, name: str) -> list[dict[str, Any]]:
        """What the log says under a name."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == name]

    def metric(self, name: str) -> float:
        """A figure without labels, or the sum over all of them."""
        text = self.http().get("/metrics").text
        rows = [row.rsplit(" ", 1) for row in text.splitlines() if row.partition("{")[0].partition(" ")[0] == name]
        return sum(float(value) for _, value in rows)


@contextmanager
def running(folder: Path, *words: str, environment: dict[str, str] | None = None) -> Iterator[Service]:
    """A service that was started with these words, and is ready; ends by SIGTERM, which must go well."""
    command = [sys.executable, "-m", "segrefine.cli", "serve", *words, "--port", "0", "--json"]
    log = folder / "serve.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True,
                                   env={**os.environ, **(environment or {})})  # fmt: skip
    assert process.stdout is not None
    try:
        service = Service(json.loads(_read_object(process))["url"], process, log)
        deadline = time.monotonic() + 60
        while service.http().get("/v2/health/ready").status_code != 200:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield service
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _read_object(process: subprocess.Popen[str]) -> str:
    """The JSON object that the service prints once it listens."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line == "}\n":
            break
    return "".join(lines)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Both demo models, served."""
    with running(tmp_path_factory.mktemp("service"), "demo", "demo-gs") as started:
        yield started


@pytest.fixture
def http(service: Service) -> Iterator[httpx.Client]:
    with service.http() as client:
        yield client


@pytest.fixture(scope="session")
def scene() -> tuple[bytes, bytes, str]:
    """Image, coarse mask and label of one shipped scene, as files."""
    name = "02-car-erode.png"
    folder = demo_samples()
    return (folder / "images" / name).read_bytes(), (folder / "masks" / name).read_bytes(), "car"


@pytest.fixture(scope="session")
def form(scene: tuple[bytes, bytes, str]) -> Callable[..., dict[str, Any]]:
    """Keywords for httpx of a request to refine; with fields and files changed, or left out where None."""

    def make(**changes: Any) -> dict[str, Any]:
        image, mask, label = scene
        values = {"image": image, "mask": mask, "label": label, **changes}
        given = {name: value for name, value in values.items() if value is not None}
        files = {name: ("x.png", value) for name, value in given.items() if isinstance(value, bytes)}
        return {"files": files, "data": {name: value for name, value in given.items() if name not in files}}

    return make
