"""The service in a process of its own, as tests and benchmarks use it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx


@dataclass(frozen=True)
class Service:
    """A service in a process of its own; `said` is the object that it printed."""

    url: str
    process: subprocess.Popen[str]
    log: Path
    said: dict[str, Any]

    def http(self, **options: Any) -> httpx.Client:
        """A client of its own; without the certificates, which take longer to read than a request."""
        return httpx.Client(base_url=self.url, timeout=60, verify=False, **options)

    def memory(self) -> int:
        """Return the memory that the process holds now, in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log's entries of one name."""
        lines = [json.loads(line) for line in self._lines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def strays(self) -> list[str]:
        """Lines of the log that are not its own: C libraries write to stderr too."""
        return [line for line in self._lines() if not line.startswith("{")]

    def talk(self, *parts: bytes, half_close: bool = False, timeout: float = 5) -> bytes:
        """Send bytes as they are, and return the reply until the service closes or is silent."""
        address, received = httpx.URL(self.url), b""
        with socket.create_connection((address.host, address.port or 80), timeout=timeout) as wire, suppress(OSError):
            for part in parts:
                wire.sendall(part)
            if half_close:
                wire.shutdown(socket.SHUT_WR)
            while chunk := wire.recv(65536):
                received += chunk
        return received

    def _lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()

    def metric(self, name: str) -> float:
        """A figure without labels, or the sum over all of them."""
        text = self.http().get("/metrics").text
        rows = [row.rsplit(" ", 1) for row in text.splitlines() if row.partition("{")[0].partition(" ")[0] == name]
        return sum(float(value) for _, value in rows)


@contextmanager
def running(
    folder: Path, *words: str, environment: dict[str, str] | None = None, program: str = "segrefine.cli"
) -> Iterator[Service]:
    """A service that was started with these words, and is ready; ends by SIGTERM, which must go well.

    Args:
        folder: for its log.
        words: of the command line, after `serve`.
        environment: besides this process's own.
        program: the module that has the command.
    """
    command = [sys.executable, "-m", program, "serve", *words, "--port", "0", "--json"]
    log = folder / "serve.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True,
                                   env={**os.environ, **(environment or {})})  # fmt: skip
    assert process.stdout is not None
    try:
        said = json.loads(_read_object(process))
        service = Service(said["url"], process, log, said)
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
