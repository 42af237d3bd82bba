"""The application: its routes, and what it does when it starts and ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NoReturn

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from segrefine import __version__
from segrefine.serve.describe import OPENAPI, describe_mask_route, describe_route
from segrefine.serve.dispatcher import Dispatcher
from segrefine.serve.journal import log
from segrefine.serve.kserve import add_kserve
from segrefine.serve.limits import Limits
from segrefine.serve.metrics import MEDIA_TYPE, Metrics
from segrefine.serve.middleware import Envelope
from segrefine.serve.models import PhraseModel, RefineModel, ServedModel
from segrefine.serve.pages import add_pages
from segrefine.serve.parameters import RefineParameters, SegmentParameters
from segrefine.serve.problem import Problem
from segrefine.serve.reply import Replier

Drain = Callable[[], Any]


def create_app(
    models: Sequence[ServedModel[Any]], *, limits: Limits | None = None, api_key: str | None = None,
    answers_id: bool = True, root_path: str = "",
) -> FastAPI:  # fmt: skip
    """The application that serves `models`, which the caller closes after it.

    `app.state.drain()` turns requests away and waits for the accepted ones; `app.state.warm` is a task that ends when
    every model has been warmed up, or with what stopped it.

    Args:
        models: of both methods; the first of each serves requests that name none.
        limits: of the service.
        api_key: what /v1 and /metrics take; None lets everyone in.
        answers_id: whether answers carry X-Request-ID; False where a proxy adds it to each by itself.
        root_path: the path below which a proxy shows the service, such as /masks. Requests may come with it or without.
    """
    limits, metrics = limits or Limits(), Metrics()
    for model in models:
        served = model.served
        metrics.serves({"model": served.name, "method": model.pipeline.settings.method, "backend": served.backend,
                        "device": served.device, "precision": served.precision})  # fmt: skip
        if model.memory:
            metrics.remembers(served.name, model.memory)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        dispatcher = Dispatcher(limits, metrics)
        with ThreadPoolExecutor(2, "reader") as readers:
            read = partial(asyncio.get_running_loop().run_in_executor, readers)
            app.state.replier = Replier(dispatcher=dispatcher, limits=limits, models=tuple(models), read=read)
            app.state.drain = dispatcher.drain
            app.state.warm = asyncio.ensure_future(_warm_up(dispatcher, models, metrics))
            yield
            app.state.warm.cancel()
            await asyncio.to_thread(dispatcher.close)

    app = FastAPI(title="segrefine", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
                  **OPENAPI)  # fmt: skip
    app.state.metrics = metrics
    app.add_exception_handler(HTTPException, _unknown_route)
    _add_methods(app, models)
    _add_probes(app, metrics)
    add_kserve(app, {model.served.name: model for model in models})
    add_pages(app)
    app.add_middleware(Envelope, metrics=metrics, api_key=api_key, answers_id=answers_id, root_path=root_path)
    return app


def _add_methods(app: FastAPI, models: Sequence[ServedModel[Any]]) -> None:
    @app.post("/v1/refine", **describe_route("refine"))
    async def refine(request: Request) -> Response:
        replier: Replier = request.app.state.replier
        return await replier.reply(request, RefineParameters, RefineModel)

    @app.post("/v1/segment", **describe_route("segment"))
    async def segment(request: Request) -> Response:
        replier: Replier = request.app.state.replier
        return await replier.reply(request, SegmentParameters, PhraseModel)  # type: ignore[type-abstract]

    @app.post("/v1/mask", **describe_mask_route())
    async def show_mask(request: Request) -> Response:
        replier: Replier = request.app.state.replier
        return await replier.show_mask(request)

    @app.get("/v1/models", summary="What is served", tags=["masks"])
    async def list_models() -> dict[str, Any]:
        return {"models": [model.describe() for model in models]}


def _add_probes(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/v2/health/live", summary="Whether the process answers", tags=["operation"])
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/v2/health/ready", summary="Whether requests are taken", tags=["operation"])
    async def ready(request: Request) -> Response:
        dispatcher: Dispatcher = request.app.state.replier.dispatcher
        if dispatcher.ready:
            return JSONResponse({"status": "ready"})
        state = "draining" if dispatcher.draining else "warming_up"
        raise Problem(503, state, "a ready service", state.replace("_", " "), "ask again", {"Retry-After": "1"})

    @app.get("/metrics", summary="Figures for Prometheus", tags=["operation"])
    async def figures() -> Response:
        return Response(metrics.to_bytes(), media_type=MEDIA_TYPE)


async def _warm_up(dispatcher: Dispatcher, models: Sequence[ServedModel[Any]], metrics: Metrics) -> None:
    for model in models:
        await dispatcher.run_aside(model)
    dispatcher.warm = True
    metrics.ready.set(1)
    log("ready", models=[model.served.name for model in models])


async def _unknown_route(request: Request, error: Exception) -> NoReturn:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        allowed = headers.get("Allow", headers.get("allow", "another method"))
        raise Problem(405, "bad_method", allowed, request.method[:16], "see /docs", headers) from None
    expected = "/v1/refine, /v1/segment, /v1/mask, /v1/models, /v2/health/…, /v2/models/…, /metrics, / or /docs"
    raise Problem(error.status_code, "not_found", expected, request.url.path[:200], "see /docs", headers) from None
