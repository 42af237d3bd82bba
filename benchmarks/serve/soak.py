"""Many requests of mixed sizes, twenty at once: none may be lost, and memory may not grow; a leak must be seen."""

from __future__ import annotations

import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.serve.process import Service, running
from segrefine.assets import demo_samples
from segrefine.cli.samples import Sample, load_samples
from segrefine.client import Client
from segrefine.errors import ServiceError

AT_ONCE = 20
REFINED_SHARE = 4
"""One request in so many refines; the others segment, with one phrase to three."""
SIDES = (48, 128, 200, 333, 512, 768)
WARM_UP = 0.3
"""Share of the requests after which memory is what it should stay."""


def soak(requests: int, leak_requests: int) -> dict[str, Any]:
    """The service and its leaking twin under the same load."""
    with tempfile.TemporaryDirectory() as folder:
        with running(Path(folder), "demo", "demo-gs") as service:
            ours = _load(service, requests, refine=True)
        with running(Path(folder), "demo-gs", program="benchmarks.serve.leaking") as service:
            control = _load(service, leak_requests, refine=False)
    return {"service": ours, "leaking_control": control}


def _load(service: Service, requests: int, *, refine: bool) -> dict[str, Any]:
    scenes = list(load_samples(demo_samples()).values())
    outcomes: Counter[str] = Counter()
    memory: list[int] = []

    with Client(service.url, retries=1000) as client, ThreadPoolExecutor(AT_ONCE) as pool:

        def ask(number: int) -> None:
            try:
                _ask(client, scenes[number % len(scenes)], number, refine=refine)
                outcomes["answered"] += 1
            except ServiceError as error:
                outcomes[f"lost: {error.status} {error.code}"] += 1
            memory.append(service.memory())

        list(pool.map(ask, range(requests)))
    first = int(WARM_UP * requests)
    statuses = Counter(str(each["status"]) for each in service.events("request"))
    return {
        "requests": requests, "at_once": AT_ONCE, "outcomes": dict(outcomes), "statuses": dict(statuses),
        "server_errors": sum(count for status, count in statuses.items() if status.startswith("5")),
        "memory_after_warm_up_mb": memory[first] / 1e6, "memory_at_end_mb": np.mean(memory[-20:]) / 1e6,
        "memory_growth_mb": (np.mean(memory[-20:]) - memory[first]) / 1e6,
    }  # fmt: skip


def _ask(client: Client, scene: Sample, number: int, *, refine: bool) -> None:
    side = SIDES[number % len(SIDES)]
    size = side, max(16, side * (2 + number % 3) // 4)
    image = np.asarray(Image.fromarray(scene.image).resize(size))
    if refine and number % REFINED_SHARE == 0:
        mask = np.asarray(Image.fromarray((scene.coarse > 0.5).astype(np.uint8)).resize(size, 0)) > 0
        mask = mask if 0 < mask.mean() < 1 else np.arange(size[0]) < np.full((size[1], 1), size[0] // 2)
        reply = client.refine(image, mask, scene.label, maps=["probability", "rounds"])
        assert reply.mask.shape == size[::-1]
    else:
        phrases = [f"the {scene.label}", "the fox", "all apples"][: 1 + number % 3]
        found = client.segment(image, phrases, maps=["uncertainty"], samples=1 + number % 2)
        assert len(found.segments) == len(phrases) and found.segments[0].mask.shape == size[::-1]
