"""Behaviour of the service under load: throughput, the price of HTTP, overload, and shutdown."""

from __future__ import annotations

import asyncio
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.serve.process import Service, running
from benchmarks.serve.wire import METRICS, PROBE, Connection, Reply, ask_alone, connected, prepare
from segrefine import Refiner, Segmenter
from segrefine.assets import demo_bundle, demo_gs_bundle, demo_samples
from segrefine.cli.samples import load_samples
from segrefine.runtime.files.image import load_image
from segrefine.runtime.files.mask import load_mask
from segrefine.serve.encode import label_map_png, mask_png

CLIENTS, ROUNDS = 8, 4
Form = dict[str, Any]


def throughput(repeats: int) -> dict[str, Any]:
    """Throughput of eight clients over that of one, and a lone request's time over a direct call's, on each method.

    "one image": the clients ask for different phrases in the same picture; "many images": each has its own. All that
    is compared takes turns, since the machine is not equally fast all the time.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), "demo", "demo-gs") as service,
        Refiner.from_bundle(demo_bundle()) as refine,
        Segmenter.from_bundle(demo_gs_bundle()) as segment,
    ):
        results = {}
        for name, (path, sent, share) in _forms().items():
            wires, count = [prepare(path, form) for form in sent], max(2 * ROUNDS, int(repeats * share))
            call = partial(_call_directly, refine, segment, name)
            times = _lone(service, list(zip(wires, sent, strict=True)), count, call)
            lone, pipeline, files_to_png = (1e3 * float(np.median(each)) for each in zip(*times, strict=True))
            before, one, eight = _batches(service), 0.0, 0.0
            for _ in range(ROUNDS):
                one += asyncio.run(_ask_all(service, wires, count // ROUNDS, 1))
                eight += asyncio.run(_ask_all(service, wires, count // ROUNDS, CLIENTS))
            after, asked = _batches(service), count // ROUNDS * ROUNDS
            batches = after[0] - before[0] - asked  # one client's are batches of one
            results[name] = {
                "one_client_per_second": asked / one, "eight_clients_per_second": asked / eight,
                "throughput_ratio": one / eight, "mean_batch": (after[1] - before[1] - asked) / batches,
                "lone_p50_ms": lone, "pipeline_p50_ms": pipeline, "lone_over_pipeline": lone / pipeline,
                "files_to_png_p50_ms": files_to_png, "lone_over_files_to_png": lone / files_to_png,
            }  # fmt: skip
    return results


def overload(at_once: int) -> dict[str, Any]:
    """So many requests at the same moment, against the defaults."""
    path, sent, _ = _forms()["refine, many images"]
    wires = [prepare(path, form) for form in sent]
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), "demo") as service:
        answers, longest = asyncio.run(_burst(service, [wires[k % len(wires)] for k in range(at_once)]))
        turned_away = service.events("request")
    refused = [seconds for reply, seconds in answers if reply.status == 429 and "retry-after" in reply.headers]
    inside = [each["ms"] for each in turned_away if each["status"] == 429]
    return {
        "at_once": at_once, "statuses": dict(Counter(str(reply.status) for reply, _ in answers)),
        "refused_p50_ms": 1e3 * float(np.median(refused)), "refused_longest_ms": 1e3 * max(refused),
        "refused_longest_in_the_service_ms": max(inside), "longest_queue": longest, "queue_bound": 16,
    }  # fmt: skip


async def _burst(service: Service, wires: Sequence[bytes]) -> tuple[list[tuple[Reply, float]], float]:
    """Replies to requests sent at the same moment on connections that are there, their seconds, the longest queue."""
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connected(service.url)) for _ in range(len(wires) + 1)]
        for connection in connections:
            await connection.ask(PROBE)

        async def ask(connection: Connection, wire: bytes) -> tuple[Reply, float]:
            began = time.perf_counter()
            return await connection.ask(wire), time.perf_counter() - began

        asking = asyncio.gather(*map(ask, connections, wires))
        longest = 0.0
        while not asking.done():
            figures = (await connections[-1].ask(METRICS)).body.decode()
            longest = max(longest, float(figures.partition("\nsegrefine_queue_length ")[2].partition("\n")[0]))
            await asyncio.sleep(0.02)
        return await asking, longest


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
    """Return the requests by name: path, forms, and the share of the repeats."""
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


def _lone(
    service: Service, sent: Sequence[tuple[bytes, Form]], count: int, call: Callable[[Form], tuple[float, float]]
) -> list[tuple[float, float, float]]:
    """Seconds of a request that is alone, and of the direct call for the same, in turns; see `_call_directly`."""
    times = []
    address = httpx.URL(service.url)
    with socket.create_connection((address.host, address.port or 80), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for k in range(count):
            wire, form = sent[k % len(sent)]
            began = time.perf_counter()
            assert ask_alone(connection, wire).status == 200
            times.append((time.perf_counter() - began, *call(form)))
    return times


async def _ask_all(service: Service, wires: Sequence[bytes], count: int, clients: int) -> float:
    """Seconds of so many requests, by clients that each ask for one after the other."""

    async def work(first: int) -> None:
        async with connected(service.url) as connection:
            for k in range(first, count, clients):
                assert (await connection.ask(wires[k % len(wires)])).status == 200

    began = time.perf_counter()
    await asyncio.gather(*map(work, range(clients)))
    return time.perf_counter() - began


def _batches(service: Service) -> tuple[float, float]:
    return service.metric("segrefine_batch_size_count"), service.metric("segrefine_batch_size_sum")


def _post(http: httpx.Client, path: str, sent: Form) -> httpx.Response:
    return http.post(path, files={name: (name, content) for name, content in sent["files"].items()}, data=sent["data"])
