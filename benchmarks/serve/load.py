"""How the service takes load: throughput, the price of HTTP, overload, and being told to stop."""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.serve.process import Service, running
from segrefine import Refiner, Segmenter
from segrefine.assets import demo_bundle, demo_gs_bundle, demo_samples
from segrefine.cli.samples import load_samples
from segrefine.runtime.image import load_image
from segrefine.runtime.mask import load_mask
from segrefine.serve.encode import label_map_png, mask_png

CLIENTS, ROUNDS = 8, 4
Form = dict[str, Any]


def throughput(repeats: int) -> dict[str, Any]:
    """Throughput of eight clients over that of one, and a lone request's time over a direct call's, on each method.

    "one image": the clients ask for different phrases in the same picture; "many images": each has its own. All that
    is compared takes turns, since the machine is not equally fast all the time.
    """
    results = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), "demo", "demo-gs") as service,
        service.http(headers={"Accept": "image/png"}) as http,
        Refiner.from_bundle(demo_bundle()) as refine,
        Segmenter.from_bundle(demo_gs_bundle()) as segment,
    ):
        for name, (path, sent, share) in _forms().items():
            count, call = max(2 * ROUNDS, int(repeats * share)), partial(_call_directly, refine, segment, name)
            lone, alone, whole = [], [], []
            for k in range(count):
                lone.append(_timed(partial(_post, http, path, sent[k % len(sent)])))
                pipeline, files_to_png = call(sent[k % len(sent)])
                alone.append(pipeline)
                whole.append(files_to_png)
            before, one, eight = _batches(service), 0.0, 0.0
            for _ in range(ROUNDS):
                one += _timed(partial(_ask_all, service, path, sent, count // ROUNDS, 1))
                eight += _timed(partial(_ask_all, service, path, sent, count // ROUNDS, CLIENTS))
            after, asked = _batches(service), count // ROUNDS * ROUNDS
            results[name] = {
                "one_client_per_second": asked / one, "eight_clients_per_second": asked / eight,
                "throughput_ratio": one / eight, "mean_batch": (after[1] - before[1]) / (after[0] - before[0]),
                "lone_p50_ms": _median_ms(lone), "pipeline_p50_ms": _median_ms(alone),
                "lone_over_pipeline": _median_ms(lone) / _median_ms(alone),
                "files_to_png_p50_ms": _median_ms(whole),
                "lone_over_files_to_png": _median_ms(lone) / _median_ms(whole),
            }  # fmt: skip
    return results


def overload(at_once: int) -> dict[str, Any]:
    """So many requests at the same moment, against the defaults."""
    path, sent, _ = _forms()["refine, many images"]
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), "demo") as service:
        barrier, longest, stop = threading.Barrier(at_once), [0.0], threading.Event()

        def watch() -> None:
            while not stop.is_set():
                longest[0] = max(longest[0], service.metric("segrefine_queue_length"))

        def ask(number: int) -> tuple[int, float, str]:
            with service.http() as http:
                http.get("/v2/health/live")  # connected before the clock starts
                barrier.wait()
                began = time.perf_counter()
                answer = _post(http, path, sent[number % len(sent)])
                return answer.status_code, time.perf_counter() - began, answer.headers.get("retry-after", "")

        watching = threading.Thread(target=watch)
        watching.start()
        with ThreadPoolExecutor(at_once) as pool:
            answers = list(pool.map(ask, range(at_once)))
        stop.set()
        watching.join()
        turned_away = service.events("request")
    refused = [seconds for status, seconds, after in answers if status == 429 and after]
    inside = [each["ms"] for each in turned_away if each["status"] == 429]
    return {
        "at_once": at_once, "statuses": dict(Counter(str(status) for status, *_ in answers)),
        "refused_p50_ms": 1e3 * float(np.median(refused)), "refused_longest_ms": 1e3 * max(refused),
        "refused_longest_in_the_service_ms": max(inside), "longest_queue": longest[0], "queue_bound": 16,
    }  # fmt: skip


def stopping() -> dict[str, Any]:
    """SIGTERM while requests run and wait."""
    path, sent, _ = _forms()["refine, many images"]
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), "demo") as service:

        def ask(number: int) -> str:
            with service.http() as http:
                return str(_post(http, path, sent[number % len(sent)]).status_code)

        with ThreadPoolExecutor(12) as pool:
            answers = pool.map(ask, range(12))
            while service.metric("segrefine_queue_length") < 10:
                time.sleep(0.01)
            service.process.send_signal(signal.SIGTERM)
            began = time.perf_counter()
            with service.http() as http:
                while http.get("/v2/health/ready").status_code == 200:
                    time.sleep(0.005)
            not_ready = time.perf_counter() - began
            statuses = Counter(answers)
        code = service.process.wait(30)
        ended = time.perf_counter() - began
    return {"accepted": 12, "statuses": dict(statuses), "not_ready_after_s": not_ready, "ended_after_s": ended,
            "exit_code": code}  # fmt: skip


def _forms() -> dict[str, tuple[str, list[Form], float]]:
    """What is sent, by name: path, forms, and the share of the repeats that it is worth."""
    folder, scenes = demo_samples(), load_samples(demo_samples())
    files = {name: (folder / "images" / f"{name}.png").read_bytes() for name in scenes}
    masks = {name: (folder / "masks" / f"{name}.png").read_bytes() for name in scenes}
    refine = [
        {"files": {"image": files[name], "mask": masks[name]}, "data": {"label": scene.label}}
        for name, scene in scenes.items()
    ]
    segment = [
        {"files": {"image": files[name]}, "data": {"phrases": f"the {scene.label}"}} for name, scene in scenes.items()
    ]
    first = next(iter(files.values()))
    same = [{"files": {"image": first}, "data": each["data"]} for each in segment]
    return {
        "refine, many images": ("/v1/refine", refine, 0.4),
        "segment, many images": ("/v1/segment", segment, 1.0),
        "segment, one image": ("/v1/segment", same, 1.0),
    }


def _call_directly(refine: Refiner, segment: Segmenter, name: str, sent: Form) -> tuple[float, float]:
    """Seconds of a call in this process: of the pipeline alone, and from the files to the PNG."""
    began = time.perf_counter()
    image = load_image(sent["files"]["image"])
    if name.startswith("refine"):
        coarse = load_mask(sent["files"]["mask"], (image.shape[0], image.shape[1]))
        read = time.perf_counter()
        mask = refine(image, coarse, sent["data"]["label"]).mask
        called = time.perf_counter()
        mask_png(mask)
    else:
        read = time.perf_counter()
        found = segment(image, [sent["data"]["phrases"]])
        called = time.perf_counter()
        label_map_png(found.label_map())
    return called - read, time.perf_counter() - began


def _ask_all(service: Service, path: str, sent: list[Form], count: int, clients: int) -> None:
    """So many requests, by clients that each ask for one after the other."""

    def work(first: int) -> None:
        with service.http(headers={"Accept": "image/png"}) as http:
            for k in range(first, count, clients):
                _post(http, path, sent[k % len(sent)]).raise_for_status()

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, range(clients)))


def _batches(service: Service) -> tuple[float, float]:
    return service.metric("segrefine_batch_size_count"), service.metric("segrefine_batch_size_sum")


def _median_ms(seconds: list[float]) -> float:
    return 1e3 * float(np.median(seconds))


def _post(http: httpx.Client, path: str, sent: Form) -> httpx.Response:
    return http.post(path, files={name: (name, content) for name, content in sent["files"].items()}, data=sent["data"])


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
