"""Triton's own server, from the folder `triton` of the environment, where `make` puts three wheels for these tests.

They are nvidia-pytriton, which carries the server (24.10), tritonclient, and the NumPy 1 that this server reads arrays
of: its Python backend knows NumPy 2 from 24.11 on. Nothing else sees them.
"""

from __future__ import annotations

import ctypes.util
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

FOLDER = Path(sys.prefix) / "triton"
"""Where the wheels are, if they are there."""

_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_LIBRARIES = sysconfig.get_config_var("LIBDIR")


def find_server() -> Path | None:
    """The folder of the server's files; None where the wheel, or Python as a library, is not installed."""
    built = Path(_LIBRARIES, f"libpython{_VERSION}.so.1.0").exists()
    folder = FOLDER / "pytriton/tritonserver"
    return folder if folder.exists() and (built or ctypes.util.find_library(f"python{_VERSION}")) else None


@dataclass(frozen=True)
class Triton:
    """A server in a process of its own."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def http(self) -> httpx.Client:
        """A client of its own."""
        return httpx.Client(base_url=self.url, timeout=60, verify=False)

    def is_ready(self) -> bool:
        """Whether every model is served."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            with self.http() as http:
                return http.get("/v2/health/ready").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def running(repository: Path, folder: Path, *words: str) -> Iterator[Triton]:
    """A server on `repository` that is ready; its log and its files go to `folder`."""
    source = find_server()
    assert source
    backend, port = folder / "backends/python", _free_port()
    shutil.copytree(source / "backends/python", backend)
    shutil.copy(source / "python_backend_stubs" / _VERSION / "triton_python_backend_stub", backend)
    program = shutil.copy(source / "bin/tritonserver", folder)
    for file in (Path(program), backend / "triton_python_backend_stub"):
        file.chmod(0o755)
    command = [
        program, f"--model-repository={repository}", f"--backend-directory={folder / 'backends'}",
        "--http-address=127.0.0.1", f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false",
        "--disable-auto-complete-config", "--exit-timeout-secs=10", *words,
    ]  # fmt: skip
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{FOLDER / 'nvidia_pytriton.libs'}:{_LIBRARIES}",
        "PATH": f"{_write_environment(folder / 'python')}:{os.environ['PATH']}",
    }
    log = folder / "triton.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        server, deadline = Triton(f"http://127.0.0.1:{port}", process, log), time.monotonic() + 60
        while not server.is_ready():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield server
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def _write_environment(folder: Path) -> Path:
    """Programs of an environment with the packages of this one, but NumPy 1; the first Python in PATH is Triton's."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python3").symlink_to(Path(sys.executable).resolve())
    (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    packages = folder / f"lib/python{_VERSION}/site-packages"
    packages.mkdir(parents=True)
    (packages / "here.pth").write_text("\n".join([str(FOLDER), *filter(None, sys.path)]))
    return folder / "bin"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
