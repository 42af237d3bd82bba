from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from segrefine.assets import demo_bundle
from segrefine.serve.limits import Limits


def test_no_bundle_there(fails: Callable[..., str], tmp_path: Path) -> None:
    assert str(tmp_path / "nothing") in fails("serve", tmp_path / "nothing", "--port", 0)


def test_port_that_is_taken(fails: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen on 127.0.0.1" in fails("serve", "demo", "--port", taken.getsockname()[1])


@pytest.mark.parametrize("host", ["nowhere.invalid", "", "a..b", "http://127.0.0.1"])
def test_host_that_is_none(run: Callable[..., Result], host: str) -> None:
    result = run("serve", "demo", "--host", host, "--port", 0)
    assert result.exit_code == 2 and f"name or an address of this machine, got {host!r}" in result.stderr


def test_two_bundles_of_one_name(run: Callable[..., Result], tmp_path: Path) -> None:
    shutil.copytree(demo_bundle(), tmp_path / "demo")
    result = run("serve", "demo", tmp_path / "demo", "--port", 0)
    assert result.exit_code == 2 and "two bundles are named demo" in result.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--timeout", "0"), ("--max-megapixels", "179"), ("--drain-timeout", "-1")),
        *(("--timeout", "nan"), ("--max-body-mib", "inf"), ("--max-megapixels", "nan")),
    ],
)
def test_bound_out_of_range(run: Callable[..., Result], option: str, value: str) -> None:
    result = run("serve", "demo", "--port", 0, option, value)
    assert result.exit_code == 2 and f"{option}: expected a number above 0" in result.stderr


def test_limits() -> None:
    assert Limits(max_body_mib=0.5).body_bytes == 524288


def test_without_fastapi() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['fastapi', 'uvicorn', 'prometheus_client']))\n"
        "from segrefine.cli import main; main(['serve', 'demo', '--port', '0'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and 'hint: pip install "segrefine[serve]"' in done.stderr


def test_without_ray() -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from segrefine.cli import main; main(['serve', 'demo', '--ray', '--port', '0'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and 'hint: pip install "segrefine[ray]"' in done.stderr


def test_replicas_that_are_no_number(run: Callable[..., Result]) -> None:
    result = run("serve", "demo", "--ray", "--replicas", "1:many")
    assert result.exit_code == 2 and "MIN:MAX" in result.stderr
