"""The service on Ray: a real cluster on this machine, with a replica killed and the model changed under load."""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from benchmarks.serve.process import Service, running
from segrefine import Client
from segrefine.assets import demo_gs_bundle
from segrefine.client.calls import Patience
from segrefine.errors import SettingsError

pytest.importorskip("ray.serve", reason='Ray is not installed (pip install "segrefine[ray]")')
WORK: dict[str, Any] = {"phrases": ["the car"] * 10, "samples": 4}
"""Some tenths of a second."""
OPTIONS = ("--ray", "--threads", "1", "--workers", "1", "--queue", "4")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two replicas."""
    with running(tmp_path_factory.mktemp("cluster"), "demo-gs", *OPTIONS, "--replicas", "2") as service:
        yield service


def replicas(service: Service) -> list[psutil.Process]:
    """The processes of the replicas."""
    return [each for each in psutil.Process(service.process.pid).children(recursive=True) if _is_replica(each)]


def _is_replica(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.cmdline()[0].startswith("ray::ServeReplica")
    except (psutil.Error, IndexError):
        return False


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def ask_while(service: Service, image: bytes, going: Callable[[], bool], clients: int) -> list[NDArray[np.bool_]]:
    """The masks that so many clients get, who each ask again and again while it is going."""

    def work(_: int) -> list[NDArray[np.bool_]]:
        masks = []
        with Client(service.url) as client:
            while going():
                masks.append(client.segment(image, **WORK).segments[0].mask)
        return masks

    with ThreadPoolExecutor(clients) as pool:
        return [mask for masks in pool.map(work, range(clients)) for mask in masks]


@pytest.mark.slow
def test_overload_is_turned_away_by_the_replicas(cluster: Service, scene: tuple[bytes, bytes, str]) -> None:
    def ask(_: int) -> tuple[int, str, str]:
        with cluster.http() as http:
            answer = http.post("/v1/segment", files={"image": scene[0]}, data=WORK)
        return answer.status_code, answer.headers.get("retry-after", ""), answer.headers["content-type"]

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(ask, range(40)))
    statuses = Counter(status for status, *_ in answers)
    assert statuses.keys() <= {200, 429, 503} and statuses[200] >= 10 and statuses[429] >= 1, statuses
    assert all(int(after) >= 1 and "problem+json" in kind for status, after, kind in answers if status == 429)


@pytest.mark.slow
def test_killed_replica_loses_nothing(
    cluster: Service, scene: tuple[bytes, bytes, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, wait = [], Patience.wait

    def count(patience: Patience, attempt: int, status: int | None, after: str | None) -> float | None:
        seconds = wait(patience, attempt, status, after)
        waits.append((status, seconds)) if seconds else None
        return seconds

    with Client(cluster.url) as client:
        expected = client.segment(scene[0], **WORK).segments[0].mask
    monkeypatch.setattr(Patience, "wait", count)
    first, stop = replicas(cluster), threading.Event()
    assert len(first) == 2
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask_while, cluster, scene[0], lambda: not stop.is_set(), 4)
        time.sleep(3)
        first[0].kill()
        wait_until(lambda: len(replicas(cluster)) == 2 and first[0] not in replicas(cluster), 60)
        time.sleep(2)
        stop.set()
        masks = asking.result()
    assert len(masks) >= 6 and all(np.array_equal(mask, expected) for mask in masks)
    assert any(status is None for status, _ in waits), "the kill hit no request: the test shows nothing"


@pytest.mark.slow
def test_replicas_are_added_under_load_and_drained(tmp_path: Path, scene: tuple[bytes, bytes, str]) -> None:
    with running(tmp_path, "demo-gs", *OPTIONS, "--replicas", "1:2") as service:
        assert len(replicas(service)) == 1
        deadline = time.monotonic() + 60
        ask_while(service, scene[0], lambda: len(replicas(service)) < 2 and time.monotonic() < deadline, 4)
        assert len(replicas(service)) == 2

        def ask(_: int) -> int:
            with service.http() as http:
                return http.post("/v1/segment", files={"image": scene[0]}, data={**WORK, "samples": 16}).status_code

        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(ask, range(4))
            time.sleep(0.5)  # they have all been accepted, and take seconds
            service.process.send_signal(signal.SIGTERM)
            assert list(answers) == [200] * 4
        assert service.process.wait(30) == 0


def bundle_with(folder: Path, **settings: object) -> Path:
    """The demo model with other settings, in a folder of one name wherever it is."""
    bundle = folder / "masks"
    shutil.copytree(demo_gs_bundle(), bundle)
    manifest = json.loads((bundle / "segrefine.json").read_text())
    manifest["settings"] |= settings
    (bundle / "segrefine.json").write_text(json.dumps(manifest))
    return bundle


@pytest.mark.slow
def test_a_new_version_of_a_bundle_takes_over_under_load(
    tmp_path: Path, scene: tuple[bytes, bytes, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # which is that of a cluster that `serve --ray` starts
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    first, second = bundle_with(tmp_path / "one"), bundle_with(tmp_path / "two", steps=3)

    def mask(client: Client) -> bytes:
        return client.segment(scene[0], phrases=["the car"] * 10).segments[0].mask.tobytes()

    def work(service: Service, stop: threading.Event) -> list[bytes]:
        with Client(service.url) as client:
            return [mask(client) for _ in iter(stop.is_set, True)]

    with running(tmp_path, str(first), *OPTIONS, "--replicas", "1") as service, Client(service.url) as client:
        (old,), before, stop = replicas(service), mask(client), threading.Event()
        with ThreadPoolExecutor(3) as pool:
            asking = [pool.submit(work, service, stop) for _ in range(3)]
            try:
                done = serve_in_its_place(service, second)
                assert done.returncode == 0, done.stderr
                wait_until(lambda: not old.is_running(), 60)
                after = mask(client)
            finally:
                stop.set()
            answers = [each.result() for each in asking]
        said = json.loads(done.stdout)
        assert said["url"] == service.url and said["cluster"] == service.said["cluster"]
        assert client.models()[0]["settings"]["steps"] == 3 and len(replicas(service)) == 1
        third = bundle_with(tmp_path / "three")
        (third / "label_denoiser" / "model.onnx_data").write_bytes(b"damaged")
        failed = serve_in_its_place(service, third)
        assert failed.returncode == 1 and "hint:" in failed.stderr, failed.stderr
        assert mask(client) == after, "the old one goes on"
    assert before != after
    for each in answers:
        assert len(each) > 3 and set(each) == {before, after}
        assert each == sorted(each, key=lambda got: got == after), "an old mask after a new one"


def serve_in_its_place(service: Service, bundle: Path) -> subprocess.CompletedProcess[str]:
    """The command that replaces what the cluster serves."""
    command = [sys.executable, "-m", "segrefine.cli", "serve", str(bundle), *OPTIONS, "--json",
               "--ray-address", service.said["cluster"]]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("sent", ["a-b.c_1", None])
def test_one_request_id(cluster: Service, scene: tuple[bytes, bytes, str], sent: str | None) -> None:
    with cluster.http(headers={"X-Request-ID": sent} if sent else {}) as http:
        answer = http.post("/v1/segment", files={"image": scene[0]}, data={"phrases": "the car"})
    (told,) = answer.headers.get_list("x-request-id")
    assert told == answer.json()["request_id"] and told == (sent or told)


@pytest.mark.parametrize(("fewest", "most"), [(0, 1), (3, 2)])
def test_replicas_out_of_range(fewest: int, most: int) -> None:
    from segrefine.serve.cluster import Scale

    with pytest.raises(SettingsError, match="MIN:MAX"):
        Scale(fewest=fewest, most=most)
