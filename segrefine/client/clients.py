"""The clients: one that waits, and its twin for asyncio."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from segrefine.client.calls import (
    Call,
    Patience,
    key_header,
    refine_call,
    refusal,
    segment_call,
)
from segrefine.client.replies import (
    RefineReply,
    SegmentReply,
    read_refine_replies,
    read_refine_reply,
    read_segment_reply,
)
from segrefine.engines import Closing
from segrefine.errors import MissingDependencyError, ServiceError
from segrefine.runtime.files.image import ImageLike
from segrefine.runtime.files.mask import MaskLike

if TYPE_CHECKING:
    from typing import Self

    import httpx

URL = "http://127.0.0.1:8000"
_LOGGER = logging.getLogger(__name__)


class Client(Closing):
    """Talks to a service; a context manager that closes its connections. Threads may share one.

    Args:
        url: of the service, such as ``"http://127.0.0.1:8000"``.
        api_key: where the service takes one.
        timeout: seconds of an attempt in which nothing comes or goes, after which it is lost.
        retries: attempts after the first, where the service is full, not ready, not reached, or lost.

    Raises:
        MissingDependencyError: httpx is not installed.
    """

    def __init__(self, url: str = URL, *, api_key: str | None = None, timeout: float = 90.0, retries: int = 8) -> None:
        self._patience, self._httpx = Patience(retries=retries), _import_httpx()
        self._http = self._httpx.Client(base_url=url, timeout=timeout, headers=key_header(api_key))

    def refine(
        self, image: ImageLike, mask: MaskLike | None, label: str, *,
        seed: int = 0, model: str | None = None, maps: Sequence[str] = (), **settings: Any,
    ) -> RefineReply:  # fmt: skip
        """The refined mask.

        Args:
            image: a file, its bytes, a PIL image or an array; see `segrefine.runtime.files.image.as_image`.
            mask: the same at the image's size; see `segrefine.runtime.files.mask.as_mask`.
                None with a `box` or a `point`.
            label: what the mask shows, such as "fox".
            seed: of the noise.
            model: one of `models()`; without, the first that can.
            maps: what else is wanted: probability, paper_probability, overlay, rounds.
            settings: `guard=False` keeps all changes; `crop=False` refines small objects in the whole image;
                `preset="fast"` and `settings={"noises": 1}` change the method's numbers; `box=(40, 20, 180, 160)` and
                `point=(90, 75)`, or lists of them, mark the object where there is no mask.

        Raises:
            ImageError: a picture cannot be read.
            ServiceError: no service there, or it refuses; `code` says why.
        """
        return read_refine_reply(self._call(refine_call(image, [(label, mask)], seed, model, maps, settings)))

    def refine_all(
        self, image: ImageLike, masks: Mapping[str, MaskLike] | Sequence[tuple[str, MaskLike]], *,
        seed: int = 0, model: str | None = None, maps: Sequence[str] = (), **settings: Any,
    ) -> tuple[RefineReply, ...]:  # fmt: skip
        """The refined masks of several labels, which compete for pixels; one reply for each, in order.

        Args:
            image: see `refine`.
            masks: labels with their masks.
            seed: of the noise.
            model: see `refine`.
            maps: see `refine`.
            settings: see `refine`.

        Raises:
            ImageError: a picture cannot be read.
            ServiceError: no service there, or it refuses; `code` says why.
        """
        pairs = list(masks.items()) if isinstance(masks, Mapping) else masks
        return read_refine_replies(self._call(refine_call(image, pairs, seed, model, maps, settings)))

    def segment(
        self, image: ImageLike, phrases: Sequence[str], *,
        seed: int = 0, model: str | None = None, maps: Sequence[str] = (), **settings: Any,
    ) -> SegmentReply:  # fmt: skip
        """The masks of what the phrases name.

        Args:
            image: a file, its bytes, a PIL image or an array; see `segrefine.runtime.files.image.as_image`.
            phrases: what to look for; empty with `classes=` or `caption=` among the settings.
            seed: of the noise.
            model: one of `models()`; without, the first that can.
            maps: what else is wanted: probability, uncertainty, label_map, overlay.
            settings: others than the model's: samples, steps, sampler, guidance_scale, image_guidance_scale, edges;
                or `preset` and `settings`, as in `refine`.

        Raises:
            ImageError: the picture cannot be read.
            ServiceError: no service there, or it refuses; `code` says why.
        """
        return read_segment_reply(self._call(segment_call(image, phrases, seed, model, maps, settings)))

    def models(self) -> list[dict[str, Any]]:
        """The models that the service has.

        Raises:
            ServiceError: no service there.
        """
        return list(self._call("/v1/models")["models"])

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def _call(self, call: Call | str) -> dict[str, Any]:
        attempt = 0
        while True:
            attempt += 1
            answer, failed = None, None
            try:
                answer = self._http.request(**_request(call))
            except self._httpx.TransportError as error:
                failed = error
            wait = _next_wait(self._httpx, self._patience, attempt, answer, failed)
            if wait is None:
                return _read(answer, failed)
            time.sleep(wait)


class AsyncClient:
    """The same for asyncio; an asynchronous context manager. See `Client` for every argument and error."""

    def __init__(self, url: str = URL, *, api_key: str | None = None, timeout: float = 90.0, retries: int = 8) -> None:
        self._patience, self._httpx = Patience(retries=retries), _import_httpx()
        self._http = self._httpx.AsyncClient(base_url=url, timeout=timeout, headers=key_header(api_key))

    async def refine(
        self, image: ImageLike, mask: MaskLike | None, label: str, *,
        seed: int = 0, model: str | None = None, maps: Sequence[str] = (), **settings: Any,
    ) -> RefineReply:  # fmt: skip
        """The refined mask; see `Client.refine`."""
        call = await asyncio.to_thread(refine_call, image, [(label, mask)], seed, model, maps, settings)
        return await asyncio.to_thread(read_refine_reply, await self._call(call))

    async def refine_all(
        self, image: ImageLike, masks: Mapping[str, MaskLike] | Sequence[tuple[str, MaskLike]], *,
        seed: int = 0, model: str | None = None, maps: Sequence[str] = (), **settings: Any,
    ) -> tuple[RefineReply, ...]:  # fmt: skip
        """The refined masks of several labels; see `Client.refine_all`."""
        pairs = list(masks.items()) if isinstance(masks, Mapping) else masks
        call = await asyncio.to_thread(refine_call, image, pairs, seed, model, maps, settings)
        return await asyncio.to_thread(read_refine_replies, await self._call(call))

    async def segment(
        self, image: ImageLike, phrases: Sequence[str], *,
        seed: int = 0, model: str | None = None, maps: Sequence[str] = (), **settings: Any,
    ) -> SegmentReply:  # fmt: skip
        """The masks of what the phrases name; see `Client.segment`."""
        call = await asyncio.to_thread(segment_call, image, phrases, seed, model, maps, settings)
        return await asyncio.to_thread(read_segment_reply, await self._call(call))

    async def models(self) -> list[dict[str, Any]]:
        """The models that the service has; see `Client.models`."""
        return list((await self._call("/v1/models"))["models"])

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, call: Call | str) -> dict[str, Any]:
        attempt = 0
        while True:
            attempt += 1
            answer, failed = None, None
            try:
                answer = await self._http.request(**_request(call))
            except self._httpx.TransportError as error:
                failed = error
            wait = _next_wait(self._httpx, self._patience, attempt, answer, failed)
            if wait is None:
                return _read(answer, failed)
            await asyncio.sleep(wait)


def _import_httpx() -> ModuleType:
    try:
        import httpx
    except ImportError as error:
        raise MissingDependencyError("httpx is not installed", hint='pip install "segrefine[client]"') from error
    return httpx


def _request(call: Call | str) -> dict[str, Any]:
    if isinstance(call, str):
        return {"method": "GET", "url": call}
    files = [(name, (name, content)) for name, content in call.files]  # no name of this machine is sent
    return {"method": "POST", "url": call.path, "data": call.fields, "files": files}


def _next_wait(
    library: ModuleType, patience: Patience, attempt: int, answer: httpx.Response | None, failed: Exception | None
) -> float | None:
    """Seconds until the next attempt; None where this one counts. What the service computes may be computed twice."""
    if answer is not None:
        status = None if _is_lost(answer) else answer.status_code
        wait = patience.wait(attempt, status, answer.headers.get("retry-after"))
    elif isinstance(failed, (library.ReadTimeout, library.WriteTimeout, library.UnsupportedProtocol)):
        wait = None
    else:
        wait = patience.wait(attempt, None, None)
    if wait is not None:
        reason = type(failed).__name__ if answer is None else f"status {answer.status_code}"
        _LOGGER.info("attempt %d: %s; trying again in %.1f s", attempt, reason, wait)
    return wait


def _is_lost(answer: httpx.Response) -> bool:
    """Return whether a proxy answered for a service that was lost while it computed: no problem document."""
    return answer.status_code in (500, 502) and "problem+json" not in answer.headers.get("content-type", "")


def _read(answer: httpx.Response | None, failed: Exception | None) -> dict[str, Any]:
    if answer is None:
        message = f"the service cannot be reached: {failed or 'no answer'} ({type(failed).__name__})"
        raise ServiceError(message, hint="check the address, and that `segrefine serve` runs there") from failed
    try:
        document = answer.json()
    except ValueError:
        document = None
    if not answer.is_success or not isinstance(document, dict):
        raise refusal(answer.status_code, document)
    return document
