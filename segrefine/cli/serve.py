"""`segrefine serve`."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from segrefine.cli.console import Console, with_console
from segrefine.cli.options import BundleFolder, Model, backend_option, device_option, name_of_bundle
from segrefine.errors import MissingDependencyError, SegrefineError, SettingsError

if TYPE_CHECKING:
    from segrefine.engines import EnginePrecision
    from segrefine.serve.models import Offer
    from segrefine.serve.server import Address


_OWN_PATHS = ("v1", "v2", "docs", "page", "samples", "metrics", "openapi.json")


def _replicas(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, int]:
    fewest, _, most = text.partition(":")
    try:
        return int(fewest), int(most or fewest)
    except ValueError:
        raise click.BadParameter(f"expected a number or MIN:MAX, got {text!r}") from None


def _root_path(context: click.Context, parameter: click.Parameter, text: str) -> str:
    path = text.rstrip("/")
    if path and (not path.startswith("/") or "//" in path or not path.isprintable() or set(path) & set("?#%\\ ")):
        raise click.BadParameter(f"expected a path that begins with /, such as /masks; got {text!r}")
    if path and path.split("/")[1] in _OWN_PATHS:
        raise click.BadParameter(f"expected a path that is not one of the service's own, got {text!r}")
    return path


@click.command(short_help="Serve bundles over HTTP, with a page to try them.")
@click.argument("bundles", metavar="BUNDLE…", nargs=-1, required=True, type=BundleFolder())
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is every interface."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option("--root-path", metavar="PATH", callback=_root_path, default="",
              help="Path prefix that a proxy adds, such as /masks.")  # fmt: skip
@click.option("--forwarded-allow-ips", "trusted", metavar="ADDRESSES",
              help="Addresses of proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted, with commas; "
              "* is every address.  [default: $FORWARDED_ALLOW_IPS, or 127.0.0.1]")  # fmt: skip
@click.option(
    "--api-key",
    metavar="KEY",
    help="Key that requests must carry. SEGREFINE_SERVE_API_KEY is safer: others see command lines.",
)
@click.option(
    "--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Requests computed in parallel."
)
@click.option("--queue", type=click.IntRange(min=0), default=16, show_default=True, help="Requests that may wait.")
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True,
              help="Largest number of requests in one batch.")  # fmt: skip
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Time limit of a request, in seconds.")
@click.option(
    "--body-timeout", type=float, default=30.0, show_default=True, help="Time limit for receiving a body, in seconds."
)
@click.option("--drain-timeout", type=float, default=60.0, show_default=True,
              help="Seconds to finish accepted requests after SIGTERM.")  # fmt: skip
@click.option("--max-body-mib", type=float, default=64.0, show_default=True, help="Largest body of a request.")
@click.option("--max-maps-mib", type=float, default=256.0, show_default=True,
              help="Total size of the maps of an answer, before compression.")  # fmt: skip
@click.option(
    "--max-megapixels",
    type=float,
    default=40.0,
    show_default=True,
    help="Largest image, in millions of pixels; up to 178.",
)
@click.option("--memory-mib", type=click.FloatRange(0), default=256.0, show_default=True,
              help="Memory of each model for what it computed on recent images; 0 keeps nothing.")  # fmt: skip
@click.option("--memory-seconds", type=click.FloatRange(0), default=600.0, show_default=True,
              help="Seconds after which an unused image is dropped.")  # fmt: skip
@backend_option
@device_option
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16", "bf16"]), help="Precision to compute in.  [default: the bundles']"
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads for one operator.  [default: all cores]")
@click.option("--ray", "on_ray", is_flag=True, help="Run replicas on a Ray cluster, each with these options.")
@click.option("--replicas", metavar="MIN[:MAX]", callback=_replicas, default="1", show_default=True,
              help="Number of replicas with --ray; up to MAX under load.")  # fmt: skip
@click.option("--ray-address", metavar="ADDRESS",
              help="Ray cluster to deploy to, such as auto. Models that it serves already are replaced, one "
                   "replica at a time.  "
              "[default: start one on this machine]")  # fmt: skip
@with_console
def serve(
    console: Console, /, bundles: tuple[Path, ...], host: str, port: int, root_path: str, trusted: str | None,
    api_key: str | None, backend: str, device: str, precision: EnginePrecision | None, threads: int | None,
    on_ray: bool, replicas: tuple[int, int], ray_address: str | None, memory_mib: float, memory_seconds: float,
    **bounds: Any,
) -> None:  # fmt: skip
    """Serve each BUNDLE over HTTP, with a page to try it at /.

    BUNDLE is a folder that `segrefine export` wrote, `photo` or `photo-gs`. Models that refine and
    models that segment can be served together. On SIGTERM it answers accepted requests, for
    --drain-timeout at most, and ends.
    """
    from segrefine.engines import EngineOptions

    with _needed_packages("serve", "FastAPI and uvicorn"):
        from segrefine.serve.limits import Limits
        from segrefine.serve.server import Address

    with _bad_options():
        limits = Limits(**bounds)
    engines = EngineOptions(backend=backend, device=device, precision=precision, threads=threads)
    models = [Model(bundle=each, engines=engines) for each in bundles]
    offers = [replace(each, memory_mib=memory_mib, memory_seconds=memory_seconds) for each in _offers(models)]
    for lack in filter(None, (model.describe_lack() for model in models)):
        console.warn(lack)
    address = Address(host=host, port=port)
    key = (api_key or "").strip() or None  # files of secrets end in a newline
    if key and not key.isascii():
        raise click.UsageError("--api-key: expected ASCII, which is all that a header holds")
    if not on_ray:
        if replicas != (1, 1) or ray_address:
            raise click.UsageError("--replicas and --ray-address are for a cluster, with --ray")
        _serve_here(console, offers, address, trusted=trusted, limits=limits, api_key=key, root_path=root_path)
        return
    if trusted is not None:
        raise click.UsageError("--forwarded-allow-ips is not for --ray: there Ray's proxies are what clients reach")
    with _needed_packages("ray", "Ray Serve"):
        import ray.serve  # noqa: F401
    application = {"limits": limits, "api_key": key, "root_path": root_path}
    _serve_on_ray(console, offers, address, replicas, ray_address, application)


def _offers(models: Sequence[Model]) -> list[Offer]:
    from segrefine.bundle import Bundle
    from segrefine.runtime.engine_set import PipelineSetup
    from segrefine.serve.models import Offer, Served

    offers: dict[str, Offer] = {}
    for model in models:
        assert model.bundle is not None
        name = name_of_bundle(model.bundle)
        if name in offers:
            raise click.UsageError(f"two bundles are named {name}; rename a folder, since requests choose by it")
        manifest = Bundle.open(model.bundle).manifest
        engines = model.engines
        served = Served(name=name, backend=engines.backend, device=engines.device, shipped=model.shipped,
                        precision=engines.precision or manifest.dtype)  # fmt: skip
        setup = PipelineSetup(bundle=model.bundle.absolute(), engines=engines)
        offers[name] = Offer(served=served, method=manifest.method, setup=setup)
    return list(offers.values())


def _serve_here(
    console: Console, offers: Sequence[Offer], address: Address, *, trusted: str | None, **application: Any
) -> None:
    from segrefine.serve.app import create_app
    from segrefine.serve.server import run_server, url_of
    from segrefine.serve.zero_shot import open_models

    with _ended_by_sigterm(), ExitStack() as stack:
        with _bad_options():
            listening = stack.enter_context(address.bind())
        served = [stack.enter_context(model) for model in open_models(offers)]
        app = create_app(served, **application)
        url = url_of(address.host, listening.getsockname()[1])
        values = {"url": url, "models": [model.describe() for model in served]}
        console.result(values, f"serving {_names(offers)} at {url}  (page: {url}/  API: {url}/docs)")
        went_well = run_server(app, listening, trusted=trusted)
    if not went_well:
        raise SegrefineError("the service did not end as it should", hint="its log, above, says why")


def _serve_on_ray(
    console: Console, offers: Sequence[Offer], address: Address, scale: tuple[int, int], cluster: str | None,
    application: dict[str, Any],
) -> None:  # fmt: skip
    from segrefine.engines import needs_gpu
    from segrefine.serve.cluster import Scale, build_application, deploy, join_cluster, wait_and_end
    from segrefine.serve.server import url_of

    first = offers[0]
    on_gpu = needs_gpu(first.served.backend, first.served.device)
    with _bad_options():
        wanted = Scale(fewest=scale[0], most=scale[1], cpus=first.setup.engines.threads or 1, gpus=int(on_gpu))
    port = address.port
    if cluster is None:
        with _bad_options(), address.bind() as free:  # told now; Ray's proxies would only try again and again
            port = free.getsockname()[1]
    joined = join_cluster(cluster, wanted, host=address.host, port=port)
    deploy(build_application(offers, wanted, **application))
    url = url_of(joined.host, joined.port)
    values = {"url": url, "models": [offer.served.name for offer in offers], "cluster": joined.cluster}
    text = f"serving {_names(offers)} at {url}, {scale[0]} to {scale[1]} replicas on the Ray cluster {joined.cluster}"
    console.result(values, text)
    if cluster is None:
        wait_and_end()


@contextmanager
def _bad_options() -> Iterator[None]:
    """A context in which a setting outside its range becomes an option that was misused."""
    try:
        yield
    except SettingsError as error:
        if error.subject is None:
            raise
        raise click.UsageError(f"--{error.subject.replace('_', '-')}: {error.complaint}") from error


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """A context that SIGTERM leaves: the first process of a container would else not hear it before it serves."""

    def leave(*_: object) -> NoReturn:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _names(offers: Sequence[Offer]) -> str:
    return ", ".join(offer.served.name for offer in offers)


@contextmanager
def _needed_packages(extra: str, names: str) -> Iterator[None]:
    """A context in which a package that is missing becomes an error that names the extra."""
    try:
        yield
    except ImportError as error:
        message = f"the service takes {names}, and {error.name} is not installed"
        raise MissingDependencyError(message, hint=f'pip install "segrefine[{extra}]"') from error
