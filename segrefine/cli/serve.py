"""`segrefine serve`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segrefine.cli.console import Console, with_console
from segrefine.cli.options import BundleFolder, Model, backend_option, device_option, name_of_bundle
from segrefine.errors import MissingDependencyError, SegrefineError

if TYPE_CHECKING:
    from segrefine.engines import EnginePrecision
    from segrefine.serve.models import Model as ServedModel


@click.command()
@click.argument("bundles", metavar="BUNDLE…", nargs=-1, required=True, type=BundleFolder())
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 is every interface.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--api-key", metavar="KEY", help="What requests must carry; better set as SEGREFINE_SERVE_API_KEY than here."
)
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Requests computed at once.")
@click.option("--queue", type=click.IntRange(min=0), default=16, show_default=True, help="Requests that may wait.")
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True,
              help="Waiting requests on one image that are computed together, at most.")  # fmt: skip
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds for a request.")
@click.option("--body-timeout", type=float, default=30.0, show_default=True, help="Seconds for its body to come.")
@click.option("--drain-timeout", type=float, default=60.0, show_default=True,
              help="Seconds that accepted requests have after SIGTERM.")  # fmt: skip
@click.option("--max-body-mib", type=float, default=64.0, show_default=True, help="Size of a request's body.")
@click.option("--max-megapixels", type=float, default=40.0, show_default=True, help="Size of an image.")
@backend_option
@device_option
@click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16"]), help="Without, the bundles'.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads for one operator; without, all cores.")
@with_console
def serve(
    console: Console, /, bundles: tuple[Path, ...], host: str, port: int, api_key: str | None, backend: str,
    device: str, precision: EnginePrecision | None, threads: int | None, **bounds: Any,
) -> None:  # fmt: skip
    """Serve each BUNDLE over HTTP, with a page to try it at /.

    BUNDLE is a folder that `segrefine export` wrote, `demo` or `demo-gs`. Those that refine and those that segment can
    be served together. SIGTERM ends the service once every accepted request has its answer.
    """
    with _needed_packages():
        from segrefine.serve.app import create_app
        from segrefine.serve.limits import Limits
        from segrefine.serve.server import Address, run_server

    limits = Limits(
        queue=bounds["queue"], workers=bounds["workers"], batch=bounds["batch"], timeout=bounds["timeout"],
        body_timeout=bounds["body_timeout"], drain=bounds["drain_timeout"], body_mib=bounds["max_body_mib"],
        megapixels=bounds["max_megapixels"],
    )  # fmt: skip
    models = [
        Model(bundle=each, backend=backend, device=device, precision=precision, threads=threads) for each in bundles
    ]
    with ExitStack() as stack:
        listening = stack.enter_context(Address(host=host, port=port).bind())
        served = _open_models(models, stack)
        app = create_app(served, limits=limits, api_key=api_key or None)
        url = f"http://{host}:{listening.getsockname()[1]}"
        values = {"url": url, "models": [model.describe() for model in served]}
        names = ", ".join(model.served.name for model in served)
        console.result(values, f"serving {names} at {url}  (page: {url}/  API: {url}/docs)")
        went_well = run_server(app, listening)
    if not went_well:
        raise SegrefineError("the service did not end as it should", hint="its log, above, says why")


def _open_models(models: Sequence[Model], stack: ExitStack) -> list[ServedModel[Any]]:
    from segrefine.bundle import Bundle
    from segrefine.serve.models import Served, open_model

    opened: list[ServedModel[Any]] = []
    for model in models:
        assert model.bundle is not None
        name = name_of_bundle(model.bundle)
        if name in {each.served.name for each in opened}:
            raise click.UsageError(f"two bundles are named {name}; rename a folder, since requests choose by it")
        manifest = Bundle.open(model.bundle).manifest
        pipeline = model.open() if manifest.method == "g4seg" else model.open_segmenter()
        served = Served(name=name, backend=model.backend, device=model.device, demo=model.is_demo,
                        precision=model.precision or manifest.dtype)  # fmt: skip
        opened.append(stack.enter_context(open_model(pipeline, served)))
    return opened


@contextmanager
def _needed_packages() -> Iterator[None]:
    """A context in which a package that is missing becomes an error that names the extra."""
    try:
        yield
    except ImportError as error:
        message = f"the service takes FastAPI and uvicorn, and {error.name} is not installed"
        raise MissingDependencyError(message, hint='pip install "segrefine[serve]"') from error
