"""Path of a request to its reply: read, computed, written; as JSON, as a PNG, or as server-sent events."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from segrefine.runtime.files.mask import read_mask
from segrefine.serve.body import HungUp, parse_body, read_body
from segrefine.serve.dispatcher import Dispatcher, QueuePlace
from segrefine.serve.inputs import Pictures, read_inputs, read_mask_file, telling_of
from segrefine.serve.journal import log_failure
from segrefine.serve.limits import Limits
from segrefine.serve.models import RefineModel, ServedModel
from segrefine.serve.parameters import Parameters
from segrefine.serve.problem import STOPPED, Problem, problem_of
from segrefine.serve.work import Answer, Media, Work

ResultT = TypeVar("ResultT")
EVENTS = "text/event-stream"
_MEDIA: dict[str, Media] = {"application/json": "json", "application/*": "json", "*/*": "json", "image/png": "png",
                            "image/*": "png", EVENTS: "json"}  # fmt: skip
_HEARTBEAT = 10.0
_LONGEST_WARNINGS = 4096
"""Bytes; proxies and clients take headers of 8 KiB or more."""
_PIECE = 2**20
_SMALL = 2**16
"""Bytes of a body that is parsed before another thread would have woken up."""


@dataclass(frozen=True, kw_only=True)
class Replier:
    """Inputs for replying.

    Attributes:
        dispatcher: computes.
        limits: of the service.
        models: all that are served.
        read: runs a function on a thread that is kept for reading bodies.
    """

    dispatcher: Dispatcher
    limits: Limits
    models: tuple[ServedModel[Any], ...]
    read: Callable[..., Awaitable[Any]]

    async def reply(self, request: Request, parameters: type[Parameters], kind: type[ServedModel[Any]]) -> Response:
        """The reply to a request to a method.

        Raises:
            Problem: it cannot be answered; so do the errors of the library.
            HungUp: the client went away.
        """
        began, (kind_of_reply, media) = time.monotonic(), _media(request)
        place, streaming = self.dispatcher.admit(), False
        try:
            body = await read_body(request, self.limits)
            parse = partial(_parse, request.headers.get("content-type", ""), body, parameters, self.limits)
            pictures, asked = parse() if len(body) <= _SMALL else await self.read(parse)
            del body, parse
            model = _choose(self.models, kind, asked.model)
            settings = asked.change(model.pipeline.settings)
            asked.check_maps(settings)
            work = Work(
                pictures=pictures, parameters=asked, settings=settings, media=media,
                deadline=began + self.limits.timeout,
            )  # fmt: skip
            if kind_of_reply == EVENTS:
                streaming = True  # the place is the stream's from here on
                return EventReply(self.dispatcher, model, work, place, request.state.request_id)
            answer = await until_hang_up(request, self.dispatcher.compute(model, work, place))
            return _plain(answer, model, request.state.request_id)
        finally:
            if not streaming:
                place.leave()

    async def compute(
        self, request: Request, parse: Callable[[bytes], tuple[Pictures, Parameters]], model: ServedModel[Any]
    ) -> Answer:
        """Compute a model's answer as tensors, for a request whose body `parse` reads.

        Raises:
            Problem: it cannot be answered; so do the errors of the library.
            HungUp: the client went away.
        """
        began, place = time.monotonic(), self.dispatcher.admit()
        try:
            pictures, asked = await self.read(parse, await read_body(request, self.limits))
            work = Work(
                pictures=pictures, parameters=asked, settings=asked.change(model.pipeline.settings), media="tensors",
                deadline=began + self.limits.timeout,
            )  # fmt: skip
            return await until_hang_up(request, self.dispatcher.compute(model, work, place))
        finally:
            place.leave()

    async def show_mask(self, request: Request) -> Response:
        """The mask of a request as the service reads it, as an 8-bit grey PNG; nothing is computed.

        Raises:
            Problem: the request cannot be answered; so do the errors of the library.
            HungUp: the client went away.
        """
        place = self.dispatcher.admit()
        try:
            body = await read_body(request, self.limits)
            content = await self.read(_draw_mask, request.headers.get("content-type", ""), body, self.limits)
        finally:
            place.leave()
        return Response(content, media_type="image/png", headers={"Cache-Control": "no-store"})


class EventReply(Response):
    """A reply as server-sent events: `progress` for each stage, then `result` or `problem`."""

    media_type = EVENTS

    def __init__(
        self, dispatcher: Dispatcher, model: ServedModel[Any], work: Work, place: QueuePlace, request_id: str
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._dispatcher, self._place = dispatcher, place
        self._model, self._work, self._request_id = model, work, request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events; stops the work when the client goes away."""
        told = False

        async def stream() -> None:
            nonlocal told
            told = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for event in self._events():
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        try:
            await until_hang_up(Request(scope, receive), stream())
        except asyncio.CancelledError:  # no time left to drain; where nothing was sent yet, this is told further out
            if told:
                await send({"type": "http.response.body", "body": _event("problem", STOPPED.to_dict(self._request_id))})
            raise
        finally:
            self._place.leave()

    async def _events(self) -> AsyncIterator[bytes]:
        loop, stages = asyncio.get_running_loop(), asyncio.Queue[tuple[str, float] | None]()

        def tell(stage: str, share: float) -> None:
            loop.call_soon_threadsafe(stages.put_nowait, (stage, share))

        self._work.tell = tell
        task = asyncio.ensure_future(self._dispatcher.compute(self._model, self._work, self._place))
        task.add_done_callback(lambda _: stages.put_nowait(None))
        try:
            while True:
                try:
                    told = await asyncio.wait_for(stages.get(), _HEARTBEAT)
                except asyncio.TimeoutError:
                    yield b": still at work\n\n"
                    continue
                if told is None:
                    break
                yield _event("progress", {"stage": told[0], "share": told[1]})
            yield self._last(task)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

    def _last(self, task: asyncio.Task[Answer]) -> bytes:
        error = task.exception()
        if error is None:
            return _event("result", _values(task.result(), self._model, self._request_id))
        problem = problem_of(error)
        if not isinstance(error, Problem) and problem.status >= 500:
            log_failure(self._request_id, error)
        return _event("problem", problem.to_dict(self._request_id))


class PiecewiseReply(Response):
    """A reply that is sent in pieces: `Protocol` gives up on a client that does not take the next one for long."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the reply."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for first in range(0, len(self.body), _PIECE):
            piece = bytes(self.body[first : first + _PIECE])
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def until_hang_up(request: Request, answer: Awaitable[ResultT]) -> ResultT:
    """The answer; it is cancelled where the client goes away before it is there.

    Raises:
        HungUp: the client went away.
    """
    task = asyncio.ensure_future(answer)
    watch = asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait([task, watch], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise HungUp
    finally:
        watch.cancel()
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _parse(content_type: str, body: bytes, kind: type[Parameters], limits: Limits) -> Any:
    return read_inputs(parse_body(content_type, body), kind, limits)


def _draw_mask(content_type: str, body: bytes, limits: Limits) -> bytes:
    mask = read_mask_file(parse_body(content_type, body), limits)
    with telling_of("mask"):
        probability = read_mask(mask)
    buffer = io.BytesIO()
    Image.fromarray(np.round(probability * 255).astype(np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _media(request: Request) -> tuple[str, Media]:
    """Choose the client's preferred media type: its name in the header, and the format of the answer."""
    accepted = request.headers.get("accept") or "*/*"
    likings = dict(map(_liking, accepted.lower().split(",")))
    for name in sorted(likings, key=lambda each: -likings[each]):  # of equals the first
        if name in _MEDIA and likings[name] > 0:
            return name, _MEDIA[name]
    raise Problem(406, "not_acceptable", "application/json, image/png or text/event-stream", repr(accepted),
                  "change the Accept header")  # fmt: skip


def _liking(part: str) -> tuple[str, float]:
    """One part of an Accept header: its name, and how much it is liked, in [0, 1]; what cannot be read, fully."""
    name, *options = (each.strip() for each in part.split(";"))
    wishes = [option.removeprefix("q=") for option in options if option.startswith("q=")]
    try:
        return name, float(wishes[0]) if wishes else 1.0
    except ValueError:
        return name, 1.0


def _choose(models: tuple[ServedModel[Any], ...], kind: type[ServedModel[Any]], name: str | None) -> ServedModel[Any]:
    able = [model for model in models if isinstance(model, kind)]
    for model in able:
        if name is None or name in model.names:
            return model
    names = ", ".join(model.served.name for model in able) or "none"
    bundle = "photo" if kind is RefineModel else "photo-gs"
    raise Problem(404, "no_such_model", f"a model that this service has ({names})", repr(name or "none of them"),
                  f"GET /v1/models lists them; segrefine serve {bundle} … serves another")  # fmt: skip


def _plain(answer: Answer, model: ServedModel[Any], request_id: str) -> Response:
    if answer.picture is not None:
        return PiecewiseReply(answer.picture, headers=_warning_header(answer), media_type="image/png")
    return PiecewiseReply(json.dumps(_values(answer, model, request_id)), media_type="application/json")


def _warning_header(answer: Answer) -> dict[str, str]:
    """Return a header of warnings for pictures: a JSON array in ASCII, cut to the length that clients accept."""
    told, left = list[str](), _LONGEST_WARNINGS
    for warning in answer.values["warnings"]:
        left -= len(json.dumps(warning)) + len(", ")
        if left < 0:
            told.append("more, which application/json tells")
            break
        told.append(warning)
    return {"X-Segrefine-Warnings": json.dumps(told)} if told else {}


def _values(answer: Answer, model: ServedModel[Any], request_id: str) -> dict[str, Any]:
    return {"request_id": request_id, "model": model.served.name, **answer.values, "seconds": dict(answer.seconds)}


def _event(name: str, values: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(values)}\n\n".encode()
