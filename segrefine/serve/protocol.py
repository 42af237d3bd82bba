"""HTTP/1.1 as uvicorn speaks it, with problem documents for its own errors too, and patience that ends."""

from __future__ import annotations

import asyncio
import json
from typing import Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from segrefine.serve.problem import MEDIA_TYPE, Problem

HEADER_BYTES = 2**16
_HEADER_SECONDS = 15.0
_REST_SECONDS = 30.0
"""For the rest of a body that was answered before its end; many clients read no answer before they have sent all."""
_UNREAD_SECONDS = 30.0
"""For a piece of an answer, of 1 MiB, to be read."""
_Wait = Literal["request", "reader"]
"""What a connection waits for: that a request comes, or that its answer is read."""
_ANSWERABLE = (h11.IDLE, h11.SEND_RESPONSE)


class Protocol(H11Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Begins to wait for a request."""
        self._waits: dict[_Wait, asyncio.TimerHandle] = {}
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Takes what came; a head has only so long to be complete."""
        super().data_received(data)
        if self._is_rest():
            return
        if self.conn.their_state is not h11.IDLE:
            self._end("request")
        elif self.conn.trailing_data[0] and "request" not in self._waits:
            self._await_head()

    def on_response_complete(self) -> None:
        """Goes on to the next request; what is left of this one has only so long to come."""
        super().on_response_complete()
        if self._is_rest():
            self._end("request")
            self._waits["request"] = self.loop.call_later(_REST_SECONDS, self.transport.close)

    def pause_writing(self) -> None:
        """Begins to wait for the client to read; what it leaves unread for too long it does not get."""
        super().pause_writing()
        self._waits["reader"] = self.loop.call_later(_UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        self._end("reader")
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the waits."""
        self._end("request")
        self._end("reader")
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Tells what is wrong with the bytes, unless an answer is on its way; and ends what computes one."""
        expected = f"a request in HTTP/1.1 with headers of at most {HEADER_BYTES // 1024} KiB"
        self._refuse(Problem(400, "bad_http", expected, msg, "check the client"))

    def _is_rest(self) -> bool:
        """Return whether an answer is complete, and its request is not."""
        return self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY

    def _await_head(self) -> None:
        self._waits["request"] = self.loop.call_later(_HEADER_SECONDS, self._give_up)

    def _end(self, wait: _Wait) -> None:
        if timer := self._waits.pop(wait, None):
            timer.cancel()

    def _give_up(self) -> None:
        expected = f"a request's headers within {_HEADER_SECONDS:g} s"
        self._refuse(Problem(408, "head_too_slow", expected, "none, or half of them", "send them at once"))

    def _refuse(self, problem: Problem) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in _ANSWERABLE and not self.transport.is_closing():
            body = json.dumps(problem.to_dict("none")).encode()
            headers = [("content-type", MEDIA_TYPE), ("content-length", str(len(body))), ("connection", "close")]
            start = h11.Response(status_code=problem.status, headers=headers)
            for event in (start, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
