"""Around every request: its id, the API key, the log, the figures, and errors as problem documents."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segrefine.serve.body import HungUp
from segrefine.serve.journal import log, log_failure
from segrefine.serve.metrics import Metrics
from segrefine.serve.problem import MEDIA_TYPE, STOPPED, Problem, problem_of

_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_GUARDED = ("/v1/", "/v2/models", "/metrics")
_UNLOGGED = ("/v2/health/live", "/v2/health/ready", "/metrics")
_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'",
}


class _Sender:
    """Sends an answer with the headers that every answer has, and remembers its status; 0 while there is none."""

    def __init__(self, send: Send, own: Mapping[str, str]) -> None:
        self._send, self._own, self.status = send, own, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            out = MutableHeaders(raw=message.setdefault("headers", []))
            for name, value in self._own.items():
                out[name] = value
            for name, value in _SECURITY.items():
                out.setdefault(name, value)
        await self._send(message)


class Envelope:
    """The outermost layer of the application; see `create_app` for its arguments."""

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, api_key: str | None, answers_id: bool, root_path: str
    ) -> None:
        self._app, self._metrics = app, metrics
        self._api_key, self._answers_id, self._root_path = api_key, answers_id, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, whatever happens in it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._root_path:
            scope["root_path"] = self._root_path
        began, asked = time.perf_counter(), Headers(scope=scope).get("x-request-id", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        sender = _Sender(send, {"X-Request-ID": request_id} if self._answers_id else {})
        code = await self._answer(scope, receive, sender, request_id)
        seconds, route = time.perf_counter() - began, getattr(scope.get("route"), "path", "none")
        self._metrics.saw_request(route, sender.status, seconds)
        if route not in _UNLOGGED:
            client = (scope.get("client") or ("unknown",))[0]
            log("request", request_id=request_id, client=client, method=scope["method"][:16], route=route,
                status=sender.status, ms=round(1e3 * seconds, 1), **({"code": code} if code else {}))  # fmt: skip

    async def _answer(self, scope: Scope, receive: Receive, sender: _Sender, request_id: str) -> str | None:
        """Answers; gives the code of what went wrong."""
        try:
            self._check_key(_route_path(scope), Headers(scope=scope))
            # The server leaves the body of an answer to HEAD out, by its own scope; the route is noted in ours.
            inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
            try:
                await self._app(inner, receive, sender)
            finally:
                scope["route"] = inner.get("route")
            return None
        except asyncio.CancelledError:  # a second signal, or no time left to drain
            if not sender.status:
                await problem_response(STOPPED, request_id)(scope, receive, sender)
            raise
        except HungUp:
            self._metrics.saw_hang_up()
            return "hung_up"
        except Exception as error:
            problem = problem_of(error)
            if problem.status == 500:
                log_failure(request_id, error)
            if not sender.status:
                by_kserve = _route_path(scope).startswith("/v2/models")
                await problem_response(problem, request_id, by_kserve)(scope, receive, sender)
            return problem.code

    def _check_key(self, path: str, headers: Headers) -> None:
        if self._api_key is None or not path.startswith(_GUARDED):
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        sent = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not secrets.compare_digest(sent.encode(), self._api_key.encode()):
            raise Problem(
                401, "unauthorized", "the service's key in Authorization: Bearer …", "another" if sent else "none",
                "ask who runs the service for its key", {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip


def _route_path(scope: Scope) -> str:
    """The path that a request's route is chosen by: without the prefix of a proxy, as Starlette takes it off."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def problem_response(problem: Problem, request_id: str, by_kserve: bool = False) -> Response:
    """The answer that tells a problem; by KServe v2 with the sentence that its clients show as `error`."""
    content = problem.to_json(request_id, {"error": f"{problem}; {problem.hint}"} if by_kserve else {})
    return Response(content, problem.status, headers=dict(problem.headers), media_type=MEDIA_TYPE)
