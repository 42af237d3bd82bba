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

CLIENTS = 8
Form = dict[str, Any]


def throughput(repeats: int) -> dict[str, Any]:
    """Throughput of eight clients over that of one, and a lone request's time over a direct call's, on each method.

    "one image": the clients ask for different phrases in the same picture; "many images": each has its own.
    """
    forms = _forms()
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), "demo", "demo-gs") as service:
        results = {}
        for name, (path, sent, share) in forms.items():
            count = max(CLIENTS, int(repeats * share))
            with service.http(headers={"Accept": "image/png"}) as http:
                lone = [_timed(partial(_post, http, path, sent[k % len(sent)])) for k in range(count)]
            batches = _batches(service)
            many = _at_once(service, path, sent, count * 2)
            grown = _batches(service)
            results[name] = {
                "one_client_per_second": count / sum(lone), "eight_clients_per_second": many,
                "throughput_ratio": many * sum(lone) / count, "lone_p50_ms": 1e3 * float(np.median(lone)),
                "mean_batch": (grown[1] - batches[1]) / (grown[0] - batches[0]),
            }  # fmt: skip
    for method, times in _direct(repeats).items():
        for each in (figures for name, figures in results.items() if name.startswith(method)):
            for what, seconds in times.items():
                each[f"{what}_p50_ms"] = 1e3 * seconds
                each[f"lone_over_{what}"] = each["lone_p50_ms"] / (1e3 * seconds)
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
        "refine, many images": ("/v1/refine", refine, 0.25),
        "segment, many images": ("/v1/segment", segment, 1.0),
        "segment, one image": ("/v1/segment", same, 1.0),
    }


def _direct(repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds of a call in this process, by method: of the pipeline alone, and from the files to the PNG."""
    sent = {name.removesuffix(", many images"): forms for name, (_, forms, _) in _forms().items()}
    times: dict[str, dict[str, float]] = {}
    with Refiner.from_bundle(demo_bundle()) as refine, Segmenter.from_bundle(demo_gs_bundle()) as segment:

        def run(name: str, k: int) -> tuple[float, float]:
            files, data = sent[name][k]["files"], sent[name][k]["data"]
            began = time.perf_counter()
            image = load_image(files["image"])
            if name == "refine":
                coarse = load_mask(files["mask"], image.shape[:2])
                read = time.perf_counter()
                mask = refine(image, coarse, data["label"]).mask
                called = time.perf_counter()
                mask_png(mask)
            else:
                read = time.perf_counter()
                found = segment(image, [data["phrases"]])
                called = time.perf_counter()
                label_map_png(found.label_map())
            return called - read, time.perf_counter() - began

        for name, count in (("refine", repeats // 4), ("segment", repeats)):
            run(name, 0)
            alone, whole = zip(*(run(name, k % len(sent[name])) for k in range(count)), strict=True)
            times[name] = {"pipeline": float(np.median(alone)), "files_to_png": float(np.median(whole))}
    return times


def _at_once(service: Service, path: str, sent: list[Form], count: int) -> float:
    """Requests a second of eight clients."""

    def work(first: int) -> None:
        with service.http(headers={"Accept": "image/png"}) as http:
            for k in range(first, count, CLIENTS):
                _post(http, path, sent[k % len(sent)]).raise_for_status()

    with ThreadPoolExecutor(CLIENTS) as pool:
        return count / _timed(lambda: list(pool.map(work, range(CLIENTS))))


def _batches(service: Service) -> tuple[float, float]:
    return service.metric("segrefine_batch_size_count"), service.metric("segrefine_batch_size_sum")


def _post(http: httpx.Client, path: str, sent: Form) -> httpx.Response:
    return http.post(path, files={name: (name, content) for name, content in sent["files"].items()}, data=sent["data"])


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
