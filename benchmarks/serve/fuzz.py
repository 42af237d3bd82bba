"""Hostile requests by the thousand: whatever comes, the service answers with a problem document and goes on.

They are drawn by a seeded generator from valid requests that are cut, altered, blown up or mislabelled at every level:
the bytes on the wire, the form, the JSON, the pictures, the values.
"""

from __future__ import annotations

import base64
import io
import json
import random
import socket
import tempfile
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.serve.process import Service, running

PATIENCE = 30.0
AT_ONCE = 32
VALUES: tuple[Any, ...] = (
    *("", " ", "fox", "\0", "../../etc/passwd", "%s%n", "{label}", "<|endoftext|>", "’" * 2000, "a" * 5000, "ثعلب"),
    *(0, -1, 2**63, 10**400, 1.5, True, None, [], {}, [[]], ["fox"] * 300, {"a": {"b": []}}, "NaN", "1e999"),
)
NAMES = (
    *("image", "mask", "label", "seed", "format", "maps", "model", "phrases", "caption", "samples", "steps"),
    *("guidance_scale", "edges", "sampler", "\0", "a" * 300),
)
KINDS = ("application/json", "multipart/form-data; boundary=b", "multipart/form-data", "text/plain", "", "a/b; =", "é")
PATHS = ("/v1/refine", "/v1/segment", "/", "/v1/../x", "/page/%2e%2e/app.py", "/metrics", "/%00", "/" + "a" * 9000)
BOMB = zlib.compress(bytes(50_000_000), 9)
CODES = frozenset([200, 400, 404, 405, 406, 408, 413, 415, 422, 429, 431, 501, 504])


def fuzz(requests: int, seed: int = 0) -> dict[str, Any]:
    """Send that many requests, and return their outcomes, and whether the service is healthy after them."""
    with tempfile.TemporaryDirectory() as folder:
        words = ("demo", "demo-gs", "--queue", "64", "--body-timeout", "2", "--timeout", "20", "--max-body-mib", "4")
        with running(Path(folder), *words) as service:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                seeds = [random.Random(f"{seed}-{part}") for part in range(AT_ONCE)]
                outcomes = sum(pool.map(lambda rng: _hammer(service, rng, requests // AT_ONCE), seeds), Counter())
            with service.http() as http:
                healthy = http.get("/v2/health/ready").status_code == 200
            idle = service.metric("segrefine_running") + service.metric("segrefine_queue_length") == 0
            failures, strays = service.events("failure"), service.strays()
            alive = service.process.poll() is None
    return {
        "requests": sum(outcomes.values()), "seed": seed, "outcomes": dict(sorted(outcomes.items())),
        "unexpected": sum(count for name, count in outcomes.items() if not name.isdecimal() or int(name) not in CODES
                          if name not in ("closed", "hung up")),
        "server_errors": sum(count for name, count in outcomes.items() if name.isdecimal() and name[0] == "5"),
        "logged_failures": dict(Counter(each["error"] for each in failures)),
        "stray_log_lines": len(strays), "stray_example": strays[0][:200] if strays else None,
        "hangs": outcomes["hung"], "crashed": not alive, "healthy_after": healthy, "idle_after": idle,
    }  # fmt: skip


def _hammer(service: Service, rng: random.Random, count: int) -> Counter[str]:
    return Counter(_send(service, hostile_request(rng), hang_up=rng.random() < 0.05) for _ in range(count))


def _send(service: Service, wire: bytes, *, hang_up: bool) -> str:
    """Sends bytes; gives the status, `closed` where the connection ended without one, `hung`, or what is wrong."""
    host, port = service.url.removeprefix("http://").split(":")
    received = b""
    try:
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
            try:
                connection.sendall(wire)
                if hang_up:
                    return "hung up"
            except OSError:
                pass  # it answered before the end, and closed
            while chunk := connection.recv(65536):
                received += chunk
    except TimeoutError:
        return "hung"
    except OSError:
        pass  # reset; what came before it counts
    if received.startswith(b"HTTP/1.1 100 "):
        received = received.partition(b"\r\n\r\n")[2]
    if not received.startswith(b"HTTP/1.1 "):
        return "closed" if not received else "no HTTP"
    status, (head, _, body) = received[9:12].decode(), received.partition(b"\r\n\r\n")
    if status[0] in "45" and b"\r\n\r\n" in received and body and b"problem+json" not in head:
        return f"{status} without a problem document"
    return status


def hostile_request(rng: random.Random) -> bytes:
    """A request's bytes."""
    kind, body = rng.choice((_json_body, _form_body, _form_body, _raw_body))(rng)
    if rng.random() < 0.08:
        kind = rng.choice(KINDS)
    if rng.random() < 0.15:
        body = _damage(rng, body)
    path = rng.choice(PATHS if rng.random() < 0.1 else PATHS[:2])
    method = rng.choice(("GET", "PUT", "OPTIONS", "TRACE", "P\0ST")) if rng.random() < 0.05 else "POST"
    length = len(body) if rng.random() < 0.9 else rng.choice((0, 1, len(body) * 2 + 1, 10**12, -1, 2**64))
    headers = [("Host", "x"), ("Content-Type", kind), ("Content-Length", str(length)), ("Connection", "close")]
    if rng.random() < 0.2:
        headers.append(rng.choice((
            ("X-Request-ID", "é" * 40), ("Content-Encoding", "gzip"), ("Accept", "image/png"), ("Accept", "x/y"),
            ("Accept", "text/event-stream"), ("X", "y" * 100_000), ("Transfer-Encoding", "chunked"),
            ("Authorization", "Bearer \xff"), ("Content-Length", "3"), ("Upgrade", "websocket"),
            ("Expect", "100-continue"),
        )))  # fmt: skip
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)
    wire = head.encode("latin-1", "replace") + b"\r\n" + body
    return _damage(rng, wire) if rng.random() < 0.05 else wire


def _json_body(rng: random.Random) -> tuple[str, bytes]:
    values: dict[str, Any] = {"image": _text(_picture(rng)), "mask": _text(_picture(rng)), "label": "fox"}
    if rng.random() < 0.5:
        values = {"image": values["image"], "phrases": ["the fox"]}
    for _ in range(rng.randrange(4)):
        values[rng.choice(NAMES)] = rng.choice(VALUES)
    for name in rng.sample(sorted(values), rng.randrange(3)):
        del values[name]
    body = json.dumps(values).encode()
    if rng.random() < 0.1:
        nested = b"[" * 9000, b'{"a":' * 9000, b"[1," * 9000
        body = rng.choice((*nested, body.replace(b'"fox"', b"NaN"), b"\xff\xfe" + body))
    return "application/json", body


def _form_body(rng: random.Random) -> tuple[str, bytes]:
    parts: list[tuple[str, bytes, bool]] = [("image", _picture(rng), True)]
    if rng.random() < 0.5:
        parts += [("mask", _picture(rng), True), ("label", b"fox", False)]
    else:
        parts += [("phrases", b"the fox", False)]
    for _ in range(rng.randrange(3)):
        parts.append((rng.choice(NAMES), str(rng.choice(VALUES)).encode(), rng.random() < 0.3))
    if rng.random() < 0.2:
        parts.pop(rng.randrange(len(parts)))
    if rng.random() < 0.02:
        parts *= 300
    body = b""
    for name, content, is_file in parts:
        file = f'; filename="{rng.choice(("x.png", "../../x", "C:/x", "%00", "a" * 500))}"' if is_file else ""
        head = f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        body += head.encode("utf-8", "replace") + content + b"\r\n"
    return "multipart/form-data; boundary=b", body + (b"--b--\r\n" if rng.random() < 0.9 else b"")


def _raw_body(rng: random.Random) -> tuple[str, bytes]:
    return rng.choice(KINDS), rng.randbytes(rng.choice((0, 1, 100, 5000)))


def _picture(rng: random.Random) -> bytes:
    """A picture or what passes for one; most are small and well."""
    side = rng.choice((1, 8, 8, 8, 33))
    match rng.randrange(10):
        case 0:
            return _png_of(rng.choice((0, 1, 9000, 2**31 - 1)), rng.choice((1, 9000, 2**31 - 1)), b"IDAT", BOMB)
        case 1:
            return _png_of(8, 8, rng.choice((b"zTXt", b"iCCP", b"iTXt", b"eXIf")), b"a\0\0" + BOMB)
        case 2:
            return _encode(side, rng.choice(("GIF", "BMP", "TIFF", "WEBP", "JPEG", "PPM")))
        case 3:
            buffer = io.BytesIO()
            np.save(buffer, np.full((side, side), rng.choice((np.nan, 0.5, 7.0))))
            return buffer.getvalue()
        case 4 | 5:
            return _damage(rng, _encode(side, rng.choice(("PNG", "GIF", "TIFF", "WEBP", "JPEG"))))
    return _encode(side, "PNG")


def _encode(side: int, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.tri(side, dtype=np.uint8) * 255).save(buffer, form)
    return buffer.getvalue()


def _png_of(width: int, height: int, kind: bytes, content: bytes) -> bytes:
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    chunks = ((b"IHDR", header), (kind, content), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(each).to_bytes(4, "big") + name + each + zlib.crc32(name + each).to_bytes(4, "big") for name, each in chunks
    )


def _damage(rng: random.Random, content: bytes) -> bytes:
    """The bytes cut short, or with some changed, doubled or taken out."""
    if not content:
        return b"\0"
    place = rng.randrange(len(content))
    match rng.randrange(4):
        case 0:
            return content[:place]
        case 1:
            return content[:place] + rng.randbytes(4) + content[place + 4 :]
        case 2:
            return content[:place] + content[place // 2 :]
        case _:
            return content[:place] + content[place + rng.randrange(1, 20) :]


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
