"""What the service answers is what the pipelines compute."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.serve.process import Service
from segrefine import Refiner, Segmenter
from segrefine.assets import demo_bundle, demo_gs_bundle, demo_samples
from segrefine.runtime.files.image import load_image
from segrefine.runtime.files.mask import load_mask
from segrefine.runtime.files.rle import decode_rle
from segrefine.runtime.words.context import read_caption

Make = Callable[..., dict[str, Any]]


def picture(content: bytes | dict[str, Any]) -> NDArray[Any]:
    encoded = content if isinstance(content, bytes) else base64.b64decode(content["data"])
    return np.asarray(Image.open(io.BytesIO(encoded)))


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def refined(scene: tuple[bytes, bytes, str]) -> Any:
    image = load_image(scene[0])
    with Refiner.from_bundle(demo_bundle()) as refine:
        return refine(image, load_mask(scene[1], image.shape[:2]), scene[2], seed=3)


def test_refine_is_the_refiner(http: httpx.Client, form: Make, refined: Any) -> None:
    maps = ["probability", "paper_probability", "overlay", "rounds"]
    answer = http.post("/v1/refine", **form(seed="3", maps=maps, soft_format="npy"))
    assert answer.status_code == 200, answer.text
    values = answer.json()
    np.testing.assert_array_equal(picture(values["mask"]) > 0, refined.mask)
    probability = np.load(io.BytesIO(base64.b64decode(values["probability"]["data"])))
    np.testing.assert_allclose(probability, refined.probability, atol=1e-4)
    assert values["size"] == [128, 128] and values["label"] == "car" and values["model"] == "demo"
    assert picture(values["overlay"]).shape == (128, 128, 3)
    (round_,) = values["rounds"]
    assert round_["timestep"] == 350 and picture(round_["discrepancy"]).shape == (16, 16)
    assert {"read", "text evidence", "edges", "write"} <= values["seconds"].keys()
    assert values["request_id"] == answer.headers["x-request-id"]


def test_guard_and_crop_are_those_of_the_command_line(http: httpx.Client) -> None:
    wrong, small = "08-cactus-two.png", np.zeros((128, 128), np.uint8)
    small[60:70, 90:102] = 255
    image = (demo_samples() / "images" / wrong).read_bytes()
    coarse = (demo_samples() / "masks" / wrong).read_bytes()

    def ask(mask: bytes, **fields: str) -> dict[str, Any]:
        answer = http.post("/v1/refine", files={"image": image, "mask": mask}, data={"label": "cactus", **fields})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    with Refiner.from_bundle(demo_bundle(), threads=1) as refiner:
        for label in ("cactus", "guitar"):
            expected = refiner(demo_samples() / "images" / wrong, demo_samples() / "masks" / wrong, label)
            guarded = ask(coarse, label=label)
            np.testing.assert_array_equal(picture(guarded["mask"]) > 0, expected.mask)
            found = [guarded[name] for name in ("confidence", "kept_share", "kept_coarse")]
            assert found == pytest.approx([expected.confidence, expected.kept_share, expected.kept_coarse], abs=1e-3)
            assert any("does not trust" in each for each in guarded["warnings"]) == expected.kept_coarse
    plain = ask(coarse, guard="false")
    assert plain["iou_with_coarse"] < 1 and plain["confidence"] is None and not plain["kept_coarse"]
    tiny = png(small)
    cropped, whole = ask(tiny, maps="rounds"), ask(tiny, crop="false")
    left, top, right, bottom = cropped["crop"]
    assert left < 90 and right > 102 and top < 60 and bottom > 70 and whole["crop"] is None
    assert cropped["rounds"][0]["timestep"] == 350


def test_json_is_the_form(http: httpx.Client, form: Make, scene: tuple[bytes, bytes, str]) -> None:
    image, mask, label = scene
    body = {
        "image": base64.b64encode(image).decode(),
        "mask": "data:image/png;base64," + base64.b64encode(mask).decode(),
        "label": label,
        "format": "rle",
        "maps": ["probability"],
    }
    by_json, by_form = http.post("/v1/refine", json=body).json(), http.post("/v1/refine", **form(label=label)).json()
    np.testing.assert_array_equal(decode_rle(by_json["mask"]), picture(by_form["mask"]) > 0)
    soft = picture(by_json["probability"])
    assert soft.dtype in (np.uint16, np.int32) and ((soft > 32767) == decode_rle(by_json["mask"])).all()


def test_png_itself(http: httpx.Client, form: Make) -> None:
    answer = http.post("/v1/refine", headers={"Accept": "image/png"}, **form())
    assert answer.headers["content-type"] == "image/png"
    mask = picture(answer.content)
    assert set(np.unique(mask)) == {0, 255}
    np.testing.assert_array_equal(mask, picture(http.post("/v1/refine", **form()).json()["mask"]))


def test_events(http: httpx.Client, form: Make) -> None:
    with http.stream("POST", "/v1/refine", headers={"Accept": "text/event-stream"}, **form()) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [part.split("\n") for part in "".join(answer.iter_text()).strip().split("\n\n")]
    names = [event[0].removeprefix("event: ") for event in events]
    told = [json.loads(event[1].removeprefix("data: ")) for event in events]
    assert names[:-1] == ["progress"] * (len(names) - 1) and names[-1] == "result"
    assert [each["share"] for each in told[:-1]] == sorted(each["share"] for each in told[:-1])
    plain = http.post("/v1/refine", **form()).json()
    assert told[-1]["mask"] == plain["mask"]


@pytest.mark.parametrize(
    ("accepted", "given"),
    [
        ("image/png, text/event-stream", "image/png"),
        ("application/json, text/event-stream;q=0.1", "application/json"),
        ("image/png;q=0, application/json;q=0.5", "application/json"),
        ("application/json;q=0.2, Text/Event-Stream", "text/event-stream; charset=utf-8"),
        ("text/html, */*;q=x", "application/json"),
    ],
)
def test_what_is_liked_best_comes(http: httpx.Client, form: Make, accepted: str, given: str) -> None:
    answer = http.post("/v1/refine", headers={"Accept": accepted}, **form())
    assert (answer.status_code, answer.headers["content-type"]) == (200, given)


def test_what_is_not_liked_does_not_come(http: httpx.Client, form: Make) -> None:
    answer = http.post("/v1/refine", headers={"Accept": "image/png;q=0, text/html"}, **form())
    assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")


def test_events_tell_a_problem(http: httpx.Client, form: Make) -> None:
    with http.stream("POST", "/v1/refine", headers={"Accept": "text/event-stream"}, **form(label=" ")) as answer:
        text = "".join(answer.iter_text())
    assert "event: problem" in text and '"code": "bad_prompt"' in text


def test_segment_is_the_segmenter(http: httpx.Client, scene: tuple[bytes, bytes, str]) -> None:
    phrases = ["the car", "the fox"]
    data = {"phrases": phrases, "maps": "probability, uncertainty,label_map,overlay", "samples": "3", "seed": "2"}
    values = http.post("/v1/segment", files={"image": scene[0]}, data=data).json()
    with Segmenter.from_bundle(demo_gs_bundle()) as segment:
        expected = segment(load_image(scene[0]), phrases, settings={"samples": 3}, seed=2)
    for each, theirs in zip(values["segments"], expected.segments, strict=True):
        assert each["phrase"] == theirs.phrase
        np.testing.assert_array_equal(picture(each["mask"]) > 0, theirs.mask)
        np.testing.assert_allclose(picture(each["uncertainty"]) / 65535, theirs.uncertainty, atol=1e-3)
    np.testing.assert_array_equal(picture(values["label_map"]), expected.label_map())
    assert picture(values["overlay"]).shape == (128, 128, 3)


def test_caption(http: httpx.Client, scene: tuple[bytes, bytes, str]) -> None:
    data = {"caption": "a red car stands left of a tree"}
    values = http.post("/v1/segment", files={"image": scene[0]}, data=data).json()
    assert [each["phrase"] for each in values["segments"]] == ["a red car", "a tree"]


def test_phrases_of_a_caption_are_read_in_it(http: httpx.Client, scene: tuple[bytes, bytes, str]) -> None:
    caption = "a red car stands left of a tree"
    with Segmenter.from_bundle(demo_gs_bundle()) as segment:
        expected = [
            segment(load_image(scene[0]), read_caption(caption), settings={"context": context}, seed=2).segments[1]
            for context in (False, True)
        ]
    assert (expected[0].mask != expected[1].mask).any()
    for context, theirs in zip((False, True), expected, strict=True):
        data = {"caption": caption, "seed": "2", "settings": json.dumps({"context": context})}
        values = http.post("/v1/segment", files={"image": scene[0]}, data=data).json()
        np.testing.assert_array_equal(picture(values["segments"][1]["mask"]) > 0, theirs.mask)


def images_of(number: int, scene: tuple[bytes, bytes, str]) -> list[bytes]:
    """One image, or images of two sizes and of two shapes on the model's grid."""
    if number == 1:
        return [scene[0]]
    names = ["02-car-erode", "01-banana-dilate", "03-cactus-shift"]
    opened = [Image.open(demo_samples() / "images" / f"{name}.png").convert("RGB") for name in names]
    made = [*opened, *(each.resize((200, 200)) for each in opened), opened[0].resize((200, 100))]
    buffers = [io.BytesIO() for _ in made]
    for each, buffer in zip(made, buffers, strict=True):
        each.save(buffer, "PNG")
    return [buffer.getvalue() for buffer in buffers]


@pytest.mark.parametrize("number", [1, 7])
def test_requests_on_images_of_one_shape_are_computed_together(
    service: Service, scene: tuple[bytes, bytes, str], number: int
) -> None:
    words = ["the car", "the fox", "the tree", "the boat", "the apple", "the crown", "a guitar", "a turtle"] * 2
    images = images_of(number, scene) * 16

    def ask(phrase: str, image: bytes) -> Any:
        with service.http() as http:
            return http.post("/v1/segment", files={"image": image}, data={"phrases": phrase, "samples": 2}).json()

    alone = list(map(ask, words, images))
    before = service.metric("segrefine_batch_size_count")
    with ThreadPoolExecutor(len(words)) as pool:
        together = list(pool.map(ask, words, images))
    assert service.metric("segrefine_batch_size_count") - before < len(words) - 2
    for ours, theirs in zip(together, alone, strict=True):
        assert ours["segments"][0]["phrase"] == theirs["segments"][0]["phrase"] and ours["size"] == theirs["size"]
        left, right = picture(ours["segments"][0]["mask"]), picture(theirs["segments"][0]["mask"])
        assert (left != right).mean() < 0.002  # batches are rounded differently


def test_one_bad_phrase_does_not_take_others_along(service: Service, scene: tuple[bytes, bytes, str]) -> None:
    phrases = ["the car", "x" * 2000] * 8

    def ask(phrase: str) -> int:
        with service.http() as http:
            return http.post("/v1/segment", files={"image": scene[0]}, data={"phrases": phrase}).status_code

    with ThreadPoolExecutor(len(phrases)) as pool:
        assert list(pool.map(ask, phrases)) == [200, 422] * 8


def test_demo_model_warns_of_unknown_words(http: httpx.Client, form: Make, scene: tuple[bytes, bytes, str]) -> None:
    assert "knows only fox" in http.post("/v1/refine", **form(label="zebra")).json()["warnings"][-1]
    values = http.post("/v1/segment", files={"image": scene[0]}, data={"phrases": "the zebra"}).json()
    assert "'zebra'" in values["warnings"][-1]


def test_pictures_carry_their_warnings_in_a_header(
    http: httpx.Client, form: Make, scene: tuple[bytes, bytes, str]
) -> None:
    wanted = {"Accept": "image/png"}
    assert "x-segrefine-warnings" not in http.post("/v1/refine", headers=wanted, **form()).headers
    answer = http.post("/v1/refine", headers=wanted, **form(label="zebra"))
    assert "knows only fox" in json.loads(answer.headers["x-segrefine-warnings"])[-1]
    for phrases in (["the zèbre\n"], [f"the zebra {k}" for k in range(200)]):
        asked: dict[str, Any] = {"files": {"image": scene[0]}, "data": {"phrases": phrases, "samples": "1"}}
        told = json.loads(http.post("/v1/segment", headers=wanted, **asked).headers["x-segrefine-warnings"])
        every = http.post("/v1/segment", **asked).json()["warnings"]
        assert told == every or (told[-1].startswith("more") and told[:-1] == every[: len(told) - 1])


def test_an_answer_does_not_wait_for_acknowledgements(http: httpx.Client) -> None:
    waits = []
    for _ in range(20):
        began = time.perf_counter()
        http.get("/v2/health/live")
        waits.append(time.perf_counter() - began)
    assert min(waits) < 0.03  # Nagle's algorithm makes each of them take 40 ms


def test_models(http: httpx.Client) -> None:
    listed = http.get("/v1/models").json()["models"]
    assert [(each["name"], each["method"], each["endpoint"]) for each in listed] == [
        ("demo", "g4seg", "/v1/refine"),
        ("demo-gs", "gs", "/v1/segment"),
        ("demo-words", "zero-shot", "/v1/segment"),
    ]
    assert listed[0]["backend"] == "onnxruntime" and listed[0]["precision"] == "fp32"


def test_probes_and_figures(http: httpx.Client, form: Make) -> None:
    assert http.get("/v2/health/live").json() == {"status": "live"}
    assert http.get("/v2/health/ready").json() == {"status": "ready"}
    http.post("/v1/refine", **form())
    text = http.get("/metrics").text
    for name in (
        'segrefine_stage_seconds_bucket{le="0.001",model="demo",stage="text evidence"}',
        'segrefine_request_seconds_count{route="/v1/refine",status="200"}',
        "segrefine_queue_length 0.0",
        'segrefine_batch_size_count{model="demo"}',
        "segrefine_peak_memory_bytes",
        'segrefine_backend_info{backend="onnxruntime",device="cpu",method="g4seg",model="demo",precision="fp32"} 1.0',
        "segrefine_ready 1.0",
    ):
        assert name in text, name


def test_openapi_examples_are_accepted(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()
    assert {"/v1/refine", "/v1/segment", "/v1/models", "/v2/health/ready", "/metrics"} <= described["paths"].keys()
    for path in ("/v1/refine", "/v1/segment"):
        operation = described["paths"][path]["post"]
        example = operation["requestBody"]["content"]["application/json"]["example"]
        answer = http.post(path, json=example)
        assert answer.status_code == 200, answer.text
        assert {"200", "413", "429", "504"} <= operation["responses"].keys()


def test_log_holds_the_request_and_nothing_of_it(service: Service, form: Make) -> None:
    secret = "a very secret fox"
    with service.http() as http:
        http.post("/v1/refine", headers={"X-Request-ID": "mine-1"}, **form(label=secret))
    (entry,) = [each for each in service.events("request") if each["request_id"] == "mine-1"]
    assert entry["status"] == 200 and entry["route"] == "/v1/refine" and entry["ms"] > 0
    assert "secret" not in service.log.read_text()


def test_an_orientation_that_the_size_does_not_show_is_told(
    http: httpx.Client, scene: tuple[bytes, bytes, str]
) -> None:
    image, mask, label = scene
    for orientation, told in ((1, False), (3, True), (6, True)):
        exif, buffer = Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        Image.open(io.BytesIO(image)).convert("RGB").save(buffer, "JPEG", exif=exif)
        answer = http.post("/v1/refine", files={"image": buffer.getvalue(), "mask": mask}, data={"label": label})
        assert any("EXIF orientation" in warning for warning in answer.json()["warnings"]) == told, answer.text


def test_the_same_image_again_is_not_computed_again(http, form):
    """What a model keeps of an image changes no answer, and `/metrics` counts it."""

    def known(answer: str) -> float:
        lines = [line for line in http.get("/metrics").text.splitlines() if "segrefine_memory_samples" in line]
        return sum(float(line.split()[-1]) for line in lines if f'known="{answer}"' in line and 'model="demo"' in line)

    request = form(seed="4711")
    first = http.post("/v1/refine", **request).json()
    computed, before = known("no"), known("yes")
    second = http.post("/v1/refine", **request).json()
    assert (second["mask"], second["confidence"]) == (first["mask"], first["confidence"])
    assert known("no") == computed
    assert known("yes") > before
