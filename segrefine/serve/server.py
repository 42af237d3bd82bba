"""Running the application until a signal; then draining it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from dataclasses import dataclass
from types import FrameType

import uvicorn
from fastapi import FastAPI

from segrefine.errors import SegrefineError, SettingsError
from segrefine.serve.journal import LOGGER, log, start_log
from segrefine.serve.protocol import HEADER_BYTES, Protocol


@dataclass(frozen=True, kw_only=True)
class Address:
    """Address of the service; port 0 is any free one."""

    host: str = "127.0.0.1"
    port: int = 8000

    def bind(self) -> socket.socket:
        """A socket that listens there: who connects before the service runs waits for it.

        Raises:
            SettingsError: the host is no name and no address.
            SegrefineError: the port cannot be had.
        """
        family = self._resolve()
        try:
            # asyncio turns Nagle's algorithm off, which costs 40 ms an answer, only where the protocol is named.
            listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((self.host, self.port))
            listening.listen(2048)
        except (OSError, OverflowError) as error:
            message = f"cannot listen on {self.host} port {self.port}: {getattr(error, 'strerror', None) or error}"
            raise SegrefineError(message, hint="choose another --port or --host; --port 0 takes a free one") from error
        return listening

    def _resolve(self) -> socket.AddressFamily:
        try:
            if not self.host:  # for which the resolver would take the loopback
                raise socket.gaierror(None, "it is empty")
            return socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0][0]
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no name"
            raise SettingsError(
                subject="host",
                expected="a name or an address of this machine",
                got=f"{self.host!r}: {reason}; 127.0.0.1 is for this machine alone, 0.0.0.0 for every interface",
            ) from error


def url_of(host: str, port: int) -> str:
    """The address as a URL."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(app: FastAPI, listening: socket.socket, *, trusted: str | None = None) -> bool:
    """Serve until SIGTERM or SIGINT; then drain. A second signal ends the service at once.

    Args:
        app: the application.
        listening: the socket.
        trusted: addresses or networks, separated by commas, whose X-Forwarded-For and -Proto headers count; `*` is
            every address. None is uvicorn's default: the variable FORWARDED_ALLOW_IPS, or else 127.0.0.1.

    Returns:
        Whether all went well: the models were warmed up, and every accepted request was answered.
    """
    start_log()
    config = uvicorn.Config(
        app, http=Protocol, ws="none", lifespan="on", log_config=None, access_log=False, server_header=False,
        timeout_keep_alive=15, timeout_graceful_shutdown=10, h11_max_incomplete_event_size=HEADER_BYTES,
        proxy_headers=True, forwarded_allow_ips=trusted,
    )  # fmt: skip
    server = _Server(config)
    asyncio.run(server.serve([listening]))
    return server.went_well


class _Server(uvicorn.Server):
    """A server whose first signal drains: it listens on, so that probes see it is not ready, and then ends."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.went_well = True
        self._told: signal.Signals | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = (sockets or [])[0].getsockname()[:2]
            log("listening", host=host, port=port, process=os.getpid())
            self.config.app.state.warm.add_done_callback(self._warmed)  # type: ignore[union-attr]  # a FastAPI
            if self._told:  # while it started
                self._begin_draining(self._told)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._told:
            self.should_exit = self.force_exit = True
            self.went_well = False
            return
        self._told = signal.Signals(sig)
        if self.started:
            self._begin_draining(self._told)

    def _begin_draining(self, told: signal.Signals) -> None:
        log("draining", signal=told.name)
        self._stopping = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        ended = await self.config.app.state.drain()  # type: ignore[union-attr]  # a FastAPI
        if not ended:
            LOGGER.error("accepted requests did not end in time")
            self.went_well, self.config.timeout_graceful_shutdown = False, 1
        self.should_exit = True

    def _warmed(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            LOGGER.error("warming up failed", exc_info=error)
            self.went_well, self.should_exit = False, True
