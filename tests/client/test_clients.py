"""The clients against a real service, and against one that is moody."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.serve.process import Service
from segrefine import AsyncClient, Client, Marks, Refiner, coarse_from_marks
from segrefine.assets import demo_bundle, demo_samples
from segrefine.client.calls import Patience, refine_call
from segrefine.client.replies import read_refine_reply, read_segment_reply
from segrefine.errors import ImageError, MaskError, PromptError, ServiceError, SettingsError
from segrefine.runtime.files.image import load_image
from segrefine.runtime.files.mask import as_mask, load_mask

IMAGE, MASK = (demo_samples() / kind / "02-car-erode.png" for kind in ("images", "masks"))


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.url) as client:
        yield client


def test_refine(client: Client) -> None:
    image = load_image(IMAGE)
    coarse = load_mask(MASK, image.shape[:2])
    with Refiner.from_bundle(demo_bundle()) as refine:
        expected = refine(image, coarse, "car", seed=5)
    as_bytes, as_arrays = (IMAGE.read_bytes(), MASK.read_bytes()), (image, coarse)
    as_pictures = Image.fromarray(image), Image.fromarray((coarse * 255).astype(np.uint8))
    for picture, mask in ((IMAGE, MASK), as_bytes, as_arrays, as_pictures, (image, coarse > 0.5)):
        reply = client.refine(picture, mask, "car", seed=5, maps=["probability"])
        np.testing.assert_array_equal(reply.mask, expected.mask)
        assert reply.probability is not None
        np.testing.assert_allclose(reply.probability, expected.probability, atol=1e-4)
    assert reply.warnings == () and reply.values["model"] == "demo"


def test_several_labels_and_marks(client: Client) -> None:
    image = load_image(IMAGE)
    masks = {"car": load_mask(MASK, image.shape[:2]), "fox": np.zeros(image.shape[:2], bool)}
    masks["fox"][10:40, 10:40] = True
    marks = Marks(boxes=[(30, 40, 110, 100)], points=[(85, 72), (10, 10, False)])
    with Refiner.from_bundle(demo_bundle()) as refine:
        expected, marked = refine(image, masks), refine(image, coarse_from_marks(image, marks), "car")
    replies = client.refine_all(image, masks, maps=["probability"])
    for reply, wanted in zip(replies, expected, strict=True):
        np.testing.assert_array_equal(reply.mask, wanted.mask)
        np.testing.assert_allclose(reply.probability, wanted.probability, atol=1e-4)
    reply = client.refine(image, None, "car", box=(30, 40, 110, 100), point=[(85, 72), (10, 10, 0)])
    np.testing.assert_array_equal(reply.mask, marked.mask)


def test_settings(client: Client) -> None:
    image = load_image(IMAGE)
    changes = {"noises": 1, "text_timesteps": [500]}
    with Refiner.from_bundle(demo_bundle(), settings="fast") as refine:
        expected = refine(image, MASK, "car", settings=changes)
        assert (refine(image, MASK, "car").probability != expected.probability).any()
    reply = client.refine(IMAGE, MASK, "car", maps=["probability"], preset="fast", settings=changes)
    np.testing.assert_allclose(reply.probability, expected.probability, atol=1e-4)
    with pytest.raises(ServiceError, match="bad_setting: .*no setting 'noise'") as caught:
        client.refine(IMAGE, MASK, "car", settings={"noise": 1})
    assert caught.value.hint and "noises" in caught.value.hint


def test_segment(client: Client) -> None:
    reply = client.segment(IMAGE, ["the car", "the zebra"], samples=2, maps=["uncertainty"], edges=False)
    first = reply.segments[0]
    assert first.phrase == "the car" and first.mask.shape == (128, 128) and first.confidence > 0.5
    assert first.probability is None and first.uncertainty is not None and first.uncertainty.max() <= 0.5
    assert "zebra" in reply.warnings[-1]


def test_models(client: Client) -> None:
    assert [model["name"] for model in client.models()] == ["demo", "demo-gs", "demo-words"]


def test_async_twin(service: Service) -> None:
    async def ask() -> None:
        async with AsyncClient(service.url) as client:
            assert len(await client.models()) == 3
            refined, segmented = await asyncio.gather(
                client.refine(IMAGE, MASK, "car"), client.segment(IMAGE, ["the car"])
            )
            assert refined.mask.any() and segmented.segments[0].mask.any()
            with pytest.raises(ServiceError, match="bad_prompt"):
                await client.refine(IMAGE, MASK, " ")

    asyncio.run(ask())


def test_refusal(client: Client) -> None:
    with pytest.raises(ServiceError, match="bad_mask: expected a mask of 128×128 pixels") as caught:
        client.refine(IMAGE, np.eye(7, dtype=bool), "car")
    error = caught.value
    assert (error.status, error.code) == (422, "bad_mask") and error.hint and error.request_id


def test_input_that_cannot_be_sent(client: Client) -> None:
    with pytest.raises(ImageError, match="no such file"):
        client.refine("nowhere.png", MASK, "car")
    with pytest.raises(MaskError, match="expected a mask, got list"):
        client.refine(IMAGE, [[0, 1]], "car")
    with pytest.raises(MaskError, match="got 0, 1 and 2"):
        client.refine(IMAGE, np.array([[0, 1], [2, 0]], np.uint8), "car")
    with pytest.raises(ImageError, match="expected an image, got list"):
        client.refine([[1]], MASK, "car")


MASKS = [np.eye(7, dtype=bool), np.eye(7, dtype=np.uint8) * 255, np.eye(7) * 0.7, Image.fromarray(np.eye(7) > 0)]


@pytest.mark.parametrize("mask", MASKS, ids=["bool", "0 and 255", "float", "picture"])
def test_masks_are_sent_as_the_service_reads_them(mask: Any) -> None:
    pixels = np.arange(147, dtype=np.uint8).reshape(7, 7, 3)
    for image in (pixels, Image.fromarray(pixels), (pixels / 255)):
        sent = dict(refine_call(image, [("car", mask)], 0, None, [], {}).files)
        np.testing.assert_array_equal(load_image(sent["image"]), pixels)
        np.testing.assert_array_equal(load_mask(sent["mask"], (7, 7)), as_mask(mask))


def test_one_text_is_no_list_of_phrases(client: Client) -> None:
    with pytest.raises(PromptError, match=r"expected a list of phrases, got the text 'car'"):
        client.segment(IMAGE, "car")


def test_a_key_that_no_header_holds() -> None:
    with pytest.raises(SettingsError, match="expected ASCII"):
        Client(api_key="schlüssel")


def test_nobody_there() -> None:
    with Client("http://127.0.0.1:9", retries=1) as client, pytest.raises(ServiceError, match="cannot be reached"):
        client.models()


@contextmanager
def moody(*answers: tuple[int, str, bytes] | None) -> Iterator[tuple[str, list[float]]]:
    """A server that gives these answers in turn: status, Retry-After, body; None hangs up. Also: when it was asked."""
    asked: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers[min(len(asked), len(answers) - 1)]
            asked.append(time.monotonic())
            if answer is None:
                self.close_connection = True
                return
            status, after, body = answer
            self.send_response(status)
            self.send_header("Retry-After", after)
            self.send_header("Content-Type", "application/problem+json" if b"detail" in body else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


GOOD = (200, "", b'{"models": []}')
BUSY = (429, "1", b'{"detail": "full", "code": "queue_full"}')


def test_busy_service_is_asked_again_when_it_said() -> None:
    with moody(BUSY, (503, "", b""), None, GOOD) as (url, asked), Client(url) as client:
        assert client.models() == []
    assert len(asked) == 4 and 0.7 < asked[1] - asked[0] < 1.6


def test_async_twin_asks_again_too() -> None:
    async def ask(url: str) -> None:
        async with AsyncClient(url) as client:
            assert await client.models() == []

    with moody(BUSY, None, GOOD) as (url, asked):
        asyncio.run(ask(url))
    assert len(asked) == 3


def test_service_that_was_lost_behind_a_proxy_is_asked_again() -> None:
    with moody((500, "", b"Internal Server Error"), (502, "", b"<html>"), GOOD) as (url, asked), Client(url) as client:
        assert client.models() == []
    assert len(asked) == 3
    failed = pytest.raises(ServiceError, match="internal_error")
    with moody((500, "", b'{"detail": "it broke", "code": "internal_error"}')) as (url, asked), Client(url) as client:
        with failed:
            client.models()
        assert len(asked) == 1


def test_patience_ends() -> None:
    full = pytest.raises(ServiceError, match="queue_full")
    with moody((429, "0", BUSY[2])) as (url, asked), Client(url, retries=2) as client, full as caught:
        client.models()
    assert len(asked) == 3 and caught.value.status == 429


def test_answer_that_is_no_answer() -> None:
    wrong = pytest.raises(ServiceError, match="not with a problem document")
    with moody((200, "", b"<html>")) as (url, _), Client(url) as client, wrong:
        client.models()


@pytest.mark.parametrize("status", [400, 413, 422, 500, 504])
def test_what_is_not_asked_again(status: int) -> None:
    assert Patience().wait(1, status, "1") is None


def test_waits_grow_and_end() -> None:
    patience = Patience()
    waits = [patience.wait(attempt, None, None) for attempt in range(1, 10)]
    assert waits[-1] is None and all(wait is not None and wait <= 30 * 1.25 for wait in waits[:-1])
    assert patience.wait(1, 429, "9999") <= 30 * 1.25


NO_PNG = {"mask": {"format": "png", "data": "AAAA"}, "warnings": []}


@pytest.mark.parametrize("values", [{}, NO_PNG, {"segments": [{}]}])
def test_malformed_answers(values: dict[str, object]) -> None:
    for read in (read_refine_reply, read_segment_reply):
        with pytest.raises(ServiceError, match="malformed"):
            read(values)


def test_without_httpx() -> None:
    code = "import sys; sys.modules['httpx'] = None; import segrefine; segrefine.Client()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingDependencyError" in done.stderr
