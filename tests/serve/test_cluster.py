"""The service on Ray: a real cluster on this machine, one of whose replicas is killed under load."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from benchmarks.serve.process import Service, running
from segrefine import Client
from segrefine.client.calls import Patience
from segrefine.errors import SettingsError

pytest.importorskip("ray.serve", reason='Ray is not installed (pip install "segrefine[ray]")')
WORK = {"phrases": ["the car"] * 10, "samples": 4}
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


@pytest.mark.parametrize(("fewest", "most"), [(0, 1), (3, 2)])
def test_replicas_out_of_range(fewest: int, most: int) -> None:
    from segrefine.serve.cluster import Scale

    with pytest.raises(SettingsError, match="MIN:MAX"):
        Scale(fewest=fewest, most=most)
