"""The service on a Ray cluster: replicas of the application behind Ray Serve's proxies."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.context import _get_global_client

from segrefine.engines import usable_cores
from segrefine.errors import SegrefineError, SettingsError
from segrefine.serve.app import create_app
from segrefine.serve.journal import start_log
from segrefine.serve.limits import Limits
from segrefine.serve.models import Offer
from segrefine.serve.zero_shot import open_models

NAME = "segrefine"
_SURGE = 25
"""Per cent of the replicas that there may be on top while they are replaced; one at least."""
_AUTOSCALING = {"look_back_period_s": 10.0, "upscale_delay_s": 5.0, "downscale_delay_s": 120.0}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Number of replicas, and each one's share of the cluster.

    Attributes:
        fewest: replicas that there always are.
        most: replicas under load; they are added while replicas have more requests than workers, and taken away.
        cpus: of a replica.
        gpus: of a replica.
    """

    fewest: int = 1
    most: int = 1
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        """Raises SettingsError where a value is outside its range."""
        if not 1 <= self.fewest <= self.most:
            raise SettingsError(
                subject="replicas", expected="MIN:MAX with 1 ≤ MIN ≤ MAX", got=f"{self.fewest}:{self.most}"
            )
        if self.cpus < 0 or self.gpus < 0:
            raise SettingsError(subject="cpus, gpus", expected="0 or more", got=f"{self.cpus:g}, {self.gpus:g}")


def build_application(
    offers: Sequence[Offer], scale: Scale, *, limits: Limits, api_key: str | None, root_path: str = ""
) -> serve.Application:
    """The application for Ray Serve: every replica opens the models and serves them all.

    A replica has the queue, the limits and the answers of a service of its own. It is sent more requests than it takes,
    so that it turns the rest away itself, as a service does; what not even fits there waits in the proxies, as many
    again, and is then answered with 503.

    Where it takes the place of an application, a replica of that is stopped once its successor is warm, if the cluster
    has room for one more now; else before.

    Args:
        offers: the models; their folders must be there on every node.
        scale: of the replicas.
        limits: of each replica.
        api_key: see `create_app`.
        root_path: see `create_app`.
    """

    def build() -> FastAPI:
        start_log()
        # Ray's proxies answer the request's id.
        return create_app(open_models(offers), limits=limits, api_key=api_key, answers_id=False, root_path=root_path)

    accepted = limits.workers + limits.queue
    autoscaling = {"min_replicas": scale.fewest, "max_replicas": scale.most,
                   "target_ongoing_requests": limits.workers, **_AUTOSCALING}  # fmt: skip
    replicas = {"num_replicas": scale.fewest} if scale.fewest == scale.most else {"autoscaling_config": autoscaling}
    deploy_as: Any = serve.deployment(
        name=NAME, max_ongoing_requests=2 * accepted, max_queued_requests=accepted,
        graceful_shutdown_timeout_s=limits.drain_timeout, max_surge_percent=_SURGE if _has_room(scale) else 0,
        ray_actor_options={"num_cpus": scale.cpus, "num_gpus": scale.gpus}, **replicas,
    )  # fmt: skip
    application: serve.Application = deploy_as(serve.ingress(build)(_Replica)).bind()
    return application


def _has_room(scale: Scale) -> bool:
    free = ray.available_resources()  # type: ignore[no-untyped-call]
    return bool(free.get("CPU", 0) >= scale.cpus and free.get("GPU", 0) >= scale.gpus)


class _Replica:
    """One replica; Ray asks for its health before it sends it anything."""

    app: FastAPI

    async def check_health(self) -> None:
        """Waits until every model is warm, and raises what stopped that."""
        await asyncio.shield(self.app.state.warm)


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A cluster with Ray Serve in it: its address, and where its proxies listen."""

    cluster: str
    host: str
    port: int


def join_cluster(address: str | None, scale: Scale, *, host: str, port: int) -> Joined:
    """Connects to a Ray cluster, and starts Ray Serve in it; where it runs already, it listens where it does.

    Args:
        address: of the cluster, such as `auto`; None starts one on this machine, which ends with this process.
        scale: for which the cluster on this machine has room.
        host: where proxies listen.
        port: where they listen.

    Raises:
        SegrefineError: there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone
    options: dict[str, Any] = {"address": address}
    if address is None:
        cpus = (scale.most + 1) * scale.cpus  # one more, for the successor of another; Ray only counts them
        gpus = scale.most * scale.gpus
        options = {"address": "local", "include_dashboard": False, "num_cpus": max(usable_cores(), math.ceil(cpus)),
                   **({"num_gpus": math.ceil(gpus)} if gpus else {})}  # fmt: skip
    try:
        ray.init(namespace=NAME, log_to_driver=False, logging_level=logging.WARNING, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        message = f"no Ray cluster at {address or 'this machine'}: {error}"
        hint = "start one with `ray start --head`, or leave --ray-address out; if it takes a token: RAY_AUTH_MODE=token"
        raise SegrefineError(message, hint=hint) from error
    serve.start(proxy_location="EveryNode", http_options={"host": host, "port": port})
    client: Any = _get_global_client()  # Ray tells nowhere else where a Ray Serve that runs already listens
    listens = client.http_config
    return Joined(cluster=str(ray.get_runtime_context().gcs_address), host=listens.host, port=listens.port)


def deploy(application: serve.Application) -> None:
    """Runs the application; where it runs already, replica by replica, each once its successor is ready.

    Raises:
        SegrefineError: it does not come up.
    """
    try:
        serve.run(application, name=NAME, route_prefix="/")
    except RuntimeError as error:
        hint = (
            "the replicas' logs have the cause: /tmp/ray/session_latest/logs/serve on their nodes; where the cluster "
            "had no room for them beside those whose place they were to take, serve the old bundle again"
        )
        raise SegrefineError(f"the replicas do not start: {error}", hint=hint) from error


def wait_and_end() -> None:
    """Waits for SIGTERM or SIGINT; then accepted requests are answered, and the cluster of this process ends."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    serve.delete(NAME)  # waits until the replicas have answered what they had accepted
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()
