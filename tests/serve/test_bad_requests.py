"""Everything that can be wrong with a request: each gets a problem document, and the service goes on."""

from __future__ import annotations

import base64
import io
import json
import socket
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.serve.process import Service

Make = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def healthy(service: Service) -> Iterator[None]:
    """After every test the service takes requests, and nothing failed that it did not foresee."""
    yield
    with service.http() as http:
        assert http.get("/v2/health/ready").status_code == 200
    assert service.events("failure") == []


def check(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    problem: dict[str, Any] = answer.json()
    assert problem["code"] == code, problem
    assert problem["status"] == status and problem["request_id"] == answer.headers["x-request-id"]
    assert all(problem[name] for name in ("type", "title", "detail", "expected", "got", "hint"))
    return problem


def png(array: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def png_of(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG that says it has this size, whatever it holds."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + b"".join([png_chunk(b"IHDR", header), *chunks, png_chunk(b"IEND", b"")])


SQUARE = np.zeros((128, 128), np.uint8)
SQUARE[30:90, 30:90] = 255
BOMB = zlib.compress(bytes(200_000_000), 9)

FIELDS = {
    "no image": ({"image": None}, 422, "bad_field"),
    "no mask": ({"mask": None}, 422, "bad_field"),
    "no label": ({"label": None}, 422, "bad_field"),
    "an unknown field": ({"colour": "red"}, 422, "bad_field"),
    "an unknown file": ({"other": b"x"}, 422, "bad_field"),
    "an empty label": ({"label": "  "}, 422, "bad_prompt"),
    "a label of 5 KiB": ({"label": "fox " * 1300}, 422, "bad_field"),
    "a label that the model cannot hold": ({"label": "fox " * 300}, 422, "bad_prompt"),
    "a label with the end token": ({"label": "fox <|endoftext|>"}, 422, "bad_prompt"),
    "a seed that is no number": ({"seed": "many"}, 422, "bad_field"),
    "a negative seed": ({"seed": "-1"}, 422, "bad_field"),
    "a huge seed": ({"seed": "9" * 5000}, 422, "bad_field"),
    "two seeds": ({"seed": ["1", "2"]}, 422, "bad_field"),
    "an unknown format": ({"format": "tiff"}, 422, "bad_field"),
    "an unknown map": ({"maps": "probability,depth"}, 422, "bad_field"),
    "an unknown model": ({"model": "../../etc/passwd"}, 404, "no_such_model"),
    "a model of the other method": ({"model": "demo-gs"}, 404, "no_such_model"),
    "an image that is text": ({"image": b"hello"}, 422, "bad_image"),
    "an empty image": ({"image": b""}, 422, "bad_image"),
    "an image cut short": ({"image": png(SQUARE)[:60]}, 422, "bad_image"),
    "an SVG": ({"image": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}, 422, "bad_image"),
    "an image too large": ({"image": png_of(20_000, 20_000, png_chunk(b"IDAT", BOMB))}, 413, "image_too_large"),
    "an image of a huge side": ({"image": png_of(2**31 - 1, 1)}, 413, "image_too_large"),
    "an image without pixels": ({"image": png_of(0, 10)}, 422, "bad_image"),
    "an image that lies about its size": ({"image": png_of(5000, 5000, png_chunk(b"IDAT", b"x"))}, 422, "bad_image"),
    "a text chunk that is a bomb": (
        {"image": png_of(8, 8, png_chunk(b"zTXt", b"a\0\0" + BOMB))}, 422, "bad_image",
    ),
    "a profile that is a bomb": ({"image": png_of(8, 8, png_chunk(b"iCCP", b"a\0\0" + BOMB))}, 422, "bad_image"),
    "a mask of another size": ({"mask": png(SQUARE[:64])}, 422, "bad_mask"),
    "a mask too large": ({"mask": png_of(20_000, 20_000)}, 413, "image_too_large"),
    "an empty mask": ({"mask": png(SQUARE * 0)}, 422, "bad_mask"),
    "a full mask": ({"mask": png(SQUARE * 0 + 255)}, 422, "bad_mask"),
    "a mask in colours": ({"mask": png(np.stack([SQUARE, SQUARE * 0, SQUARE], -1))}, 422, "bad_mask"),
    "a mask with NaN": ({"mask": npy(np.where(SQUARE > 0, np.nan, 0.0))}, 422, "bad_mask"),
    "a mask out of range": ({"mask": npy(SQUARE * 1.0 - 3)}, 422, "bad_mask"),
    "a mask of objects": ({"mask": npy(np.array([{}], object))}, 422, "bad_mask"),
    "a mask in three dimensions": ({"mask": npy(np.zeros((2, 2, 2)))}, 422, "bad_mask"),
    "an .npy that lies about its shape": (
        {"mask": npy(SQUARE * 1.0).replace(b"(128, 128), ", b"(99999, 999)")[:200]}, 422, "bad_mask",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "status", "code"), FIELDS.values(), ids=FIELDS)
def test_fields(http: httpx.Client, form: Make, changes: dict[str, Any], status: int, code: str) -> None:
    check(http.post("/v1/refine", **form(**changes)), status, code)


@pytest.mark.parametrize(
    ("changes", "hint"),
    [({"labels": "fox"}, "write label"), ({"mask": "coarse.png"}, "with the @"), ({"label": None}, "curl -F label=")],
    ids=["a field that is nearly known", "a file that was not attached", "a field that is missing"],
)
def test_slips_are_told(http: httpx.Client, form: Make, changes: dict[str, Any], hint: str) -> None:
    assert hint in check(http.post("/v1/refine", **form(**changes)), 422, "bad_field")["hint"]


@pytest.mark.parametrize("content", [b"", b"hello", png(SQUARE)[:60], png(SQUARE)[:-30]])
@pytest.mark.parametrize("name", ["image", "mask"])
def test_the_picture_that_cannot_be_read_is_named(http: httpx.Client, form: Make, name: str, content: bytes) -> None:
    problem = check(http.post("/v1/refine", **form(**{name: content})), 422, "bad_image")
    assert problem["subject"] == name and problem["got"].startswith(f"{name}: the file is")


SEGMENT = {
    "no phrase": ({}, "bad_field"),
    "phrases and a caption": ({"phrases": "the fox", "caption": "a fox"}, "bad_field"),
    "an empty phrase": ({"phrases": ["the fox", ""]}, "bad_prompt"),
    "a caption without phrases": ({"caption": "of and or"}, "bad_prompt"),
    "257 phrases": ({"phrases": ["the fox"] * 257}, "bad_field"),
    "too many samples": ({"phrases": "the fox", "samples": "17"}, "bad_field"),
    "no step": ({"phrases": "the fox", "steps": "0"}, "bad_field"),
    "guidance that is NaN": ({"phrases": "the fox", "guidance_scale": "nan"}, "bad_field"),
    "guidance without end": ({"phrases": "the fox", "guidance_scale": "inf"}, "bad_field"),
    "an unknown sampler": ({"phrases": "the fox", "sampler": "euler"}, "bad_field"),
}


@pytest.mark.parametrize(("data", "code"), SEGMENT.values(), ids=SEGMENT)
def test_segment_fields(http: httpx.Client, scene: tuple[bytes, bytes, str], data: Any, code: str) -> None:
    check(http.post("/v1/segment", files={"image": scene[0]}, data=data), 422, code)


JSON = {
    "nothing": (b"", "bad_json"),
    "half an object": (b'{"image": "', "bad_json"),
    "a list": (b"[]", "bad_json"),
    "a number": (b"1", "bad_json"),
    "NaN": (b'{"seed": NaN}', "bad_json"),
    "other bytes than UTF-8": (b'{"label": "\xff\xfe\x01"}', "bad_json"),
    "deep nesting": (b"[" * 9000 + b"]" * 9000, "bad_json"),
    "deep objects": (b'{"a":' * 5000 + b"1" + b"}" * 5000, "bad_json"),
    "a million values": (b"[" + b"1," * 1_000_000 + b"1]", "bad_json"),
    "a number of many digits": (b'{"seed": ' + b"9" * 10_000 + b"}", "bad_json"),
}


@pytest.mark.parametrize(("body", "code"), JSON.values(), ids=JSON)
def test_json(http: httpx.Client, body: bytes, code: str) -> None:
    check(http.post("/v1/refine", content=body, headers={"Content-Type": "application/json"}), 400, code)


JSON_FIELDS: dict[str, dict[str, Any]] = {
    "an image that is no base64": {"image": "///*"},
    "an image that is a number": {"image": 7},
    "a label that is a number": {"label": 7},
    "a label that is a list of numbers": {"label": [7]},
    "two labels of one mask": {"label": ["fox", "car"]},
    "two images": {"image": ["aGVsbG8=", "aGVsbG8="]},
    "a seed that is true": {"seed": [True]},
    "maps that are a text": {"maps": "probability"},
}


@pytest.mark.parametrize("changes", JSON_FIELDS.values(), ids=JSON_FIELDS)
def test_json_fields(http: httpx.Client, scene: tuple[bytes, bytes, str], changes: dict[str, Any]) -> None:
    image, mask = (base64.b64encode(content).decode() for content in scene[:2])
    body = json.dumps({"image": image, "mask": mask, "label": "car", **changes})
    check(http.post("/v1/refine", content=body, headers={"Content-Type": "application/json"}), 422, "bad_field")


def test_maps_that_would_fill_the_memory(http: httpx.Client) -> None:
    image = png(np.zeros((3000, 4000, 3), np.uint8))
    asked = {"phrases": [f"the fox {number}" for number in range(20)], "maps": "probability", "soft_format": "npy"}
    answer = http.post("/v1/segment", files={"image": image}, data=asked)
    check(answer, 422, "maps_too_large")
    assert "--max-maps-mib" in answer.json()["expected"] and "916 MiB" in answer.json()["got"]


def test_half_a_character(http: httpx.Client, scene: tuple[bytes, bytes, str]) -> None:
    image, mask = (base64.b64encode(content).decode() for content in scene[:2])
    body = json.dumps({"image": image, "mask": mask, "label": "\ud800"})
    check(http.post("/v1/refine", content=body, headers={"Content-Type": "application/json"}), 422, "bad_prompt")


FORMS = {
    "no boundary": (b"x", "multipart/form-data", "bad_multipart"),
    "nothing": (b"", "multipart/form-data; boundary=b", "bad_multipart"),
    "another boundary": (b"--c\r\n\r\n", "multipart/form-data; boundary=b", "bad_multipart"),
    "cut short": (
        b'--b\r\nContent-Disposition: form-data; name="label"\r\n\r\nfox', "multipart/form-data; boundary=b",
        "bad_multipart",
    ),
    "a part without a name": (
        b"--b\r\nContent-Disposition: form-data\r\n\r\nfox\r\n--b--\r\n", "multipart/form-data; boundary=b",
        "bad_multipart",
    ),
    "an encoding that is unknown": (
        b'--b\r\nContent-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: x\r\n\r\nf\r\n--b--\r\n',
        "multipart/form-data; boundary=b", "bad_multipart",
    ),
    "too many parts": (
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nf\r\n' * 5000 + b"--b--\r\n",
        "multipart/form-data; boundary=b", "bad_multipart",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "kind", "code"), FORMS.values(), ids=FORMS)
def test_forms(http: httpx.Client, body: bytes, kind: str, code: str) -> None:
    check(http.post("/v1/refine", content=body, headers={"Content-Type": kind}), 400, code)


def test_two_images_in_a_form(http: httpx.Client, scene: tuple[bytes, bytes, str]) -> None:
    files = [("image", ("a.png", scene[0])), ("image", ("b.png", scene[0])), ("mask", ("c.png", scene[1]))]
    problem = check(http.post("/v1/refine", files=files, data={"label": "car"}), 422, "bad_field")
    assert problem["expected"] == "one picture image" and problem["got"] == "2 of them"


def test_file_names_lead_nowhere(http: httpx.Client, scene: tuple[bytes, bytes, str]) -> None:
    files = {
        "image": ("../../../../etc/passwd\0.png", scene[0], "image/png"),
        "mask": ("C:\\x|y", scene[1], "text/html"),
    }
    assert http.post("/v1/refine", files=files, data={"label": "car"}).status_code == 200


def test_media(http: httpx.Client, form: Make) -> None:
    check(http.post("/v1/refine", content=b"label=fox", headers={"Content-Type": "text/plain"}), 415, "bad_media_type")
    check(http.post("/v1/refine", content=b"x"), 415, "bad_media_type")
    check(http.post("/v1/refine", headers={"Accept": "text/html"}, **form()), 406, "not_acceptable")


def test_compressed_body(http: httpx.Client) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    check(http.post("/v1/refine", content=zlib.compress(b"{}"), headers=headers), 415, "bad_content_encoding")


def test_routes(http: httpx.Client) -> None:
    check(http.get("/v1/nothing"), 404, "not_found")
    for path in ("/../pyproject.toml", "/page/..%2f..%2fapp.py", "/samples/images/..%2f..%2f__init__.py", "/%00"):
        check(http.get(path), 404, "not_found")
    answer = http.get("/v1/refine")
    assert answer.headers["allow"] == "POST"
    check(answer, 405, "bad_method")


def test_request_id_is_taken_only_where_it_is_harmless(http: httpx.Client) -> None:
    assert http.get("/v1/models", headers={"X-Request-ID": "a-1.b"}).headers["x-request-id"] == "a-1.b"
    for hostile in ("x" * 65, "a b", 'a"}'):
        assert http.get("/v1/models", headers={"X-Request-ID": hostile}).headers["x-request-id"] != hostile


HEAD = b"POST /v1/refine HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def test_length_that_is_too_large_is_refused_before_the_body(service: Service) -> None:
    received = service.talk(HEAD + b"Content-Length: 99999999999\r\n\r\n")
    assert b" 413 " in received and b"--max-body-mib" in received


@pytest.mark.parametrize(
    "wire",
    [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
     HEAD + b"Content-Length: -1\r\n\r\n", HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
     HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", HEAD + b"Transfer-Encoding: gzip\r\n\r\n"],
    ids=["nonsense", "no host", "a header of 200 kB", "a negative length", "two lengths", "a bad chunk", "gzip"],
)  # fmt: skip
def test_bad_http(service: Service, wire: bytes) -> None:
    received = service.talk(wire)
    assert b" 400 " in received or b" 501 " in received, received
    assert b'"code": "bad_http"' in received and b'"hint"' in received, received


def test_bad_chunk_after_a_good_start(service: Service) -> None:
    received = service.talk(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n{\r\n", b"zz\r\n")
    assert received.count(b"HTTP/1.1 4") == 1 and b'"code": "bad_http"' in received
    service.talk(HEAD.replace(b"POST", b"PUT") + b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\n")


def test_head_that_never_ends(service: Service) -> None:
    address = httpx.URL(service.url)
    with socket.create_connection((address.host, address.port or 80), timeout=20) as wire:
        wire.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        assert b" 408 " in wire.recv(65536)


def test_chunked_body_that_grows_past_the_limit(service: Service) -> None:
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    received = service.talk(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 70, b"0\r\n\r\n")
    assert b" 413 " in received
