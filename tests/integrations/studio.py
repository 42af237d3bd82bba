"""Tasks of Label Studio on the shipped scenes, and the backend in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from segrefine.assets import demo_samples
from segrefine.integrations.brush import encode_brush
from segrefine.runtime.files.mask import read_mask
from segrefine.runtime.named_mask import box_of

CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="tag" toName="image" smart="true"><Label value="Fox"/><Label value="Car"/></BrushLabels>
  <RectangleLabels name="box" toName="image" smart="true"><Label value="Fox"/><Label value="Car"/></RectangleLabels>
  <TextArea name="phrase" toName="image"/>
</View>
"""
NAME = "02-car-erode"
SIDE = 128


def image_of(name: str = NAME) -> Path:
    return demo_samples() / "images" / f"{name}.png"


def coarse_of(name: str = NAME) -> np.ndarray:
    return read_mask(demo_samples() / "masks" / f"{name}.png") > 0.5


def region(kind: str, value: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "id": "a", "type": kind, "from_name": "tag", "to_name": "image", "original_width": SIDE,
        "original_height": SIDE, "image_rotation": 0, "value": value, **changes,
    }  # fmt: skip


def brush(mask: np.ndarray, label: str = "Car", **changes: Any) -> dict[str, Any]:
    value = {"format": "rle", "rle": encode_brush(mask), "brushlabels": [label]}
    return region("brushlabels", value, **changes)


def rectangle(mask: np.ndarray, label: str = "Car", **changes: Any) -> dict[str, Any]:
    left, top, right, bottom = (100 * edge / SIDE for edge in box_of(mask) or ())
    box = {"x": left, "y": top, "width": right - left, "height": bottom - top, "rotation": 0}
    return region("rectanglelabels", {**box, "rectanglelabels": [label], **changes})


def point(x: float, y: float, label: str = "Car", **changes: Any) -> dict[str, Any]:
    return region("keypointlabels", {"x": 100 * x / SIDE, "y": 100 * y / SIDE, "keypointlabels": [label]}, **changes)


def phrase(text: str) -> dict[str, Any]:
    return region("textarea", {"text": [text]}, from_name="phrase")


def body_of(tasks: list[dict[str, Any]], drawn: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """What Label Studio posts to /predict."""
    context = {"context": {"result": drawn}} if drawn else {}
    return {"tasks": tasks, "project": "1.1700000000", "label_config": CONFIG, "params": context}


@contextmanager
def running(folder: Path, port: int, *words: str) -> Iterator[httpx.Client]:
    """The backend, started as its documentation says."""
    command = [
        sys.executable,
        "-m",
        "segrefine.integrations.label_studio",
        "--port",
        str(port),
        "--threads",
        "1",
        *words,
    ]
    with (folder / "log").open("wb") as log:
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}  # for images that are downloaded
        process = subprocess.Popen([*command, "--model-dir", str(folder)], stdout=log, stderr=log, env=environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300, trust_env=False) as client:
            deadline = time.monotonic() + 120
            while True:
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                try:
                    client.get("/health")
                    break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield client
    finally:
        process.terminate()
        process.wait()
