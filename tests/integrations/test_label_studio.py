"""The backend in the real server of label-studio-ml, which `make test-label-studio` installs."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("label_studio_ml", reason="label-studio-ml is not installed (make test-label-studio)")
brush_of_studio = pytest.importorskip("label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed")

from segrefine import Refiner, Segmenter, coarse_from_marks  # noqa: E402
from segrefine.assets import demo_samples  # noqa: E402
from segrefine.integrations.brush import decode_brush, encode_brush  # noqa: E402
from segrefine.runtime.files.image import load_image  # noqa: E402
from segrefine.runtime.files.marks import Box, Marks  # noqa: E402
from segrefine.runtime.named_mask import box_of  # noqa: E402
from tests.integrations.studio import (  # noqa: E402
    CONFIG,
    SIDE,
    body_of,
    brush,
    coarse_of,
    image_of,
    phrase,
    rectangle,
    running,
)

COUNT = 20


@dataclass(frozen=True)
class Shelf:
    folder: Path
    url: str

    @property
    def scene(self) -> str:
        return f"{self.url}/scene.png"


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ("--segment-bundle", "demo-gs", "--preset", "fast")
    with running(tmp_path_factory.mktemp("studio"), port, *words) as client:
        yield client


@pytest.fixture(scope="module")
def refiner() -> Iterator[Refiner]:
    with Refiner.from_bundle("demo", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """A folder whose files are served over HTTP, as images of tasks are."""
    folder = tmp_path_factory.mktemp("shelf")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    shutil.copyfile(image_of(), folder / "scene.png")
    yield Shelf(folder=folder, url=f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


def task_of(number: int, url: str, **more: object) -> dict:
    return {"id": number, "data": {"image": url}, **more}


def predict(client: httpx.Client, *given: list[dict]) -> list[dict]:
    answer = client.post("/predict", json=body_of(*given))
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def masks_of(prediction: dict) -> list[np.ndarray]:
    return [decode_brush(each["value"]["rle"], (SIDE, SIDE)) for each in prediction["result"]]


def test_it_is_set_up_as_label_studio_does_it(backend):
    assert backend.get("/health").json()["status"] == "UP"
    answer = backend.post("/setup", json={"project": "1.1700000000", "schema": CONFIG})
    assert answer.status_code == 200 and answer.json()["model_version"]


def test_brushes_of_twenty_images_are_refined_as_the_refiner_does(backend, refiner, shelf):
    tasks, expected = [], []
    names = sorted(path.stem for path in (demo_samples() / "images").glob("*.png"))
    for number in range(COUNT):
        name = names[number % len(names)]
        image = load_image(image_of(name))[:, :: (-1) ** (number >= len(names))]  # then their mirror images
        mask = coarse_of(name)[:, :: (-1) ** (number >= len(names))]
        Image.fromarray(np.ascontiguousarray(image)).save(shelf.folder / f"{number}.png")
        drawn = brush(mask, "Car")
        tasks.append(task_of(number, f"{shelf.url}/{number}.png", annotations=[{"result": [drawn]}]))
        expected.append(refiner(np.ascontiguousarray(image), mask, "Car", settings="fast").mask)
    found = predict(backend, tasks)
    assert len(found) == COUNT and not [each["error"] for each in found if "error" in each]
    for prediction, mask in zip(found, expected, strict=True):
        [region] = prediction["result"]
        np.testing.assert_array_equal(decode_brush(region["value"]["rle"], mask.shape), mask)
        theirs = brush_of_studio.decode_rle(region["value"]["rle"]).reshape(*mask.shape, 4)[..., 3] > 0
        np.testing.assert_array_equal(theirs, mask)
        assert region["value"]["rle"] == brush_of_studio.mask2rle(mask.astype(np.uint8) * 255)


def test_a_rectangle_that_is_being_drawn_becomes_a_brush(backend, refiner, shelf):
    mask = coarse_of()
    [found] = predict(backend, [task_of(1, shelf.scene)], [rectangle(mask, "Car")])
    image = load_image(image_of())
    coarse = coarse_from_marks(image, Marks(boxes=[Box(*box_of(mask))]))
    expected = refiner(image, [("Car", coarse)], settings="fast")[0].mask
    np.testing.assert_array_equal(masks_of(found)[0], expected)
    assert found["result"][0]["value"]["brushlabels"] == ["Car"] and found["result"][0]["from_name"] == "tag"


def test_a_phrase_becomes_a_brush_with_the_label_that_it_names(backend, shelf):
    [found] = predict(backend, [task_of(1, shelf.scene)], [phrase("the car")])
    [asked] = predict(backend, [{"id": 1, "data": {"image": shelf.scene, "phrase": "the car"}}])
    with Segmenter.from_bundle("demo-gs", threads=1) as segment:
        expected = segment(load_image(image_of()), ["the car"], settings="fast").segments[0].mask
    for each in (found, asked):
        np.testing.assert_array_equal(masks_of(each)[0], expected)
        assert each["result"][0]["value"]["brushlabels"] == ["Car"]
    [by_labels] = predict(backend, [task_of(1, shelf.scene)])
    assert {each["value"]["brushlabels"][0] for each in by_labels["result"]} <= {"Fox", "Car"}


def test_a_task_that_fails_harms_no_other(backend, shelf):
    (shelf.folder / "bad.png").write_bytes(b"no picture")
    drawn = [{"result": [brush(coarse_of())]}]
    other_size = [{"result": [brush(coarse_of(), original_width=64)]}]
    tasks = [
        task_of(1, shelf.scene, annotations=drawn),
        {"id": 2, "data": {"image": "http://127.0.0.1:9/none.png"}, "annotations": drawn},
        {"id": 3, "data": {"other": "x"}},
        task_of(4, f"{shelf.url}/bad.png", annotations=drawn),
        task_of(5, shelf.scene, annotations=other_size),
        task_of(6, shelf.scene, annotations=drawn),
    ]
    found = predict(backend, tasks)
    told = ["", "the image cannot be reached", "the task has no image at 'image'", "no picture in a known format",
            "drawn on 128×128 pixels, as the image", ""]  # fmt: skip
    for prediction, words in zip(found, told, strict=True):
        assert words in prediction.get("error", "") and bool(prediction["result"]) != bool(words), prediction
    np.testing.assert_array_equal(masks_of(found[0]), masks_of(found[5]))


def test_who_is_drawing_is_told_what_is_wrong(backend, shelf):
    wrong = brush(coarse_of(), original_width=64)
    answer = backend.post("/predict", json=body_of([task_of(1, shelf.scene)], [wrong]))
    assert answer.status_code == 500 and "drawn on 128×128 pixels" in answer.json()["detail"]


def test_runs_are_packed_as_label_studio_does_it():
    rng = np.random.default_rng(0)
    for _ in range(40):
        height, width = rng.integers(1, 60, 2)
        for mask in (
            rng.random((height, width)) > 0.5,
            np.indices((height, width)).sum(0) > rng.integers(height + width),
        ):
            theirs = brush_of_studio.mask2rle(mask.astype(np.uint8) * 255)
            assert encode_brush(mask) == theirs
            np.testing.assert_array_equal(decode_brush(theirs, mask.shape), mask)
