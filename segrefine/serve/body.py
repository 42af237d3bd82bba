"""The body of a request: read while it is counted, and taken apart into fields and files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FileError, FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.requests import Request

from segrefine.serve.limits import Limits
from segrefine.serve.problem import Problem

MOST_PARTS = 600
MOST_JSON_VALUES = 10_000
_KINDS = "multipart/form-data or application/json"
_DEEPER = "see /docs; such as curl -F image=@photo.png -F mask=@coarse.png -F label=fox"


class HungUp(Exception):
    """The client went away."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """Content of a body.

    Attributes:
        values: fields by name: of JSON any value, of a form the list of the texts sent under that name.
        files: parts of a form that have a file name, by their field's name, in order. File names are not kept.
        multipart: whether it was a form, else JSON.
    """

    values: Mapping[str, Any]
    files: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    multipart: bool = False


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body, counted while it streams.

    Raises:
        Problem: it is compressed, too large, or did not come in time.
        HungUp: the client went away before its end.
    """
    if (encoding := request.headers.get("content-encoding", "identity").lower()) != "identity":
        raise Problem(415, "bad_content_encoding", "a body as it is", f"content-encoding: {encoding}",
                      "leave the body uncompressed; pictures are compressed already")  # fmt: skip
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limits.body_bytes:
        raise _too_large(limits, f"content-length: {announced}")
    body = bytearray()
    try:
        await asyncio.wait_for(_receive(request, limits, body), limits.body_timeout)
    except asyncio.TimeoutError:  # not the built-in one before Python 3.11
        raise Problem(
            408, "body_too_slow", f"the whole body within {limits.body_timeout:g} s (--body-timeout)",
            f"{len(body)} bytes of it", "send a smaller picture, or raise --body-timeout", {"Connection": "close"},
        ) from None  # fmt: skip
    return bytes(body)


async def _receive(request: Request, limits: Limits, body: bytearray) -> None:
    """Append what a client sends to `body`, until its end.

    Raises:
        Problem: it is too large.
        HungUp: the client went away before its end.
    """
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise HungUp
        body += message.get("body", b"")
        if len(body) > limits.body_bytes:
            raise _too_large(limits, "more")
        if not message.get("more_body"):
            return


def parse_body(content_type: str, body: bytes) -> Form:
    """The fields and files of a body; slow for a large one, so not for the event loop.

    Raises:
        Problem: it is neither a form nor a JSON object, or is malformed.
    """
    kind, options = parse_options_header(content_type)
    match kind:
        case b"application/json":
            return _parse_json(body)
        case b"multipart/form-data" if options.get(b"boundary"):
            return _parse_multipart(content_type, options[b"boundary"], body)
        case b"multipart/form-data":
            raise Problem(400, "bad_multipart", "a boundary in Content-Type", repr(content_type), _DEEPER)
    raise Problem(415, "bad_media_type", _KINDS, repr(content_type) if content_type else "no Content-Type", _DEEPER)


def _parse_json(body: bytes) -> Form:
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MOST_JSON_VALUES:
        raise Problem(400, "bad_json", f"at most {MOST_JSON_VALUES} values", "more", "send what /docs lists")
    try:
        values = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise Problem(400, "bad_json", "an object of texts and numbers", "deep nesting", _DEEPER) from None
    except ValueError as error:
        raise Problem(400, "bad_json", "JSON in UTF-8", str(error), _DEEPER) from None
    if not isinstance(values, dict):
        raise Problem(400, "bad_json", "a JSON object", type(values).__name__, _DEEPER)
    return Form(values=values)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name}, which JSON does not have")


def _parse_multipart(content_type: str, boundary: bytes, body: bytes) -> Form:
    values: dict[str, list[str]] = {}
    files: dict[str, list[bytes]] = {}
    count, ended = 0, False

    def check(name: bytes | None) -> str:
        nonlocal count
        count += 1
        if count > MOST_PARTS:
            raise Problem(400, "bad_multipart", f"at most {MOST_PARTS} parts", "more", "send what /docs lists")
        return _text(name or b"", "the name of a part")

    def on_field(part: Field) -> None:
        name = check(part.field_name)
        values.setdefault(name, []).append(_text(part.value or b"", name))

    def on_file(part: File) -> None:
        name = check(part.field_name)
        part.file_object.seek(0)
        files.setdefault(name, []).append(part.file_object.read())
        part.close()

    def on_end() -> None:
        nonlocal ended
        ended = True

    config = {"MAX_MEMORY_FILE_SIZE": float("inf"), "UPLOAD_ERROR_ON_BAD_CTE": True}
    try:
        parser = FormParser("multipart/form-data", on_field, on_file, on_end, boundary=boundary, config=config)
        parser.write(body)
        parser.finalize()
    except (FormParserError, FileError) as error:
        raise Problem(400, "bad_multipart", "a form as RFC 7578 says", str(error), _DEEPER) from None
    if not ended:
        raise Problem(400, "bad_multipart", "a form that ends with its boundary", "one cut short", "send it again")
    return Form(values=values, files=files, multipart=True)


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Problem(400, "bad_multipart", f"{name} in UTF-8", "other bytes", "encode texts in UTF-8") from None


def _too_large(limits: Limits, got: str) -> Problem:
    return Problem(413, "body_too_large", f"a body of at most {limits.max_body_mib:g} MiB (--max-body-mib)", got,
                   "send a smaller picture, or raise --max-body-mib")  # fmt: skip
