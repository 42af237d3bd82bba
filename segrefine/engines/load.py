"""Bundle → engine, ready to run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import partial

from segrefine.bundle import Bundle
from segrefine.engines.backends import DEFAULT, find_backend, join_names, needs_gpu, with_precision
from segrefine.engines.cuda import open_gpu
from segrefine.engines.engine import Engine, EnginePrecision, check_threads, parse_device
from segrefine.engines.hardware import free_memory, usable_cores
from segrefine.engines.on_demand import OnDemand, Room
from segrefine.engines.options import BuildOptions, EngineOptions
from segrefine.engines.part import EnginePart, find_parts
from segrefine.engines.recipe import check_precision, graph_size, is_large
from segrefine.errors import SettingsError

_LOGGER = logging.getLogger(__name__)


def load_engine(
    bundle: Bundle,
    component: str,
    backend: str = DEFAULT.name,
    *,
    device: str = "cpu",
    precision: EnginePrecision | None = None,
    threads: int | None = None,
) -> Engine:
    """The engine of one component, on exactly the backend, device and precision asked for.

    This is the engine that `build_engine` made. Where none was built for this kind of device, it is made from the
    bundle's graph: the same results, after a slower start. Some backends run only what was built.

    Args:
        bundle: the bundle.
        component: name of the graph.
        backend: a name in `BACKENDS`.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``. A backend that runs on GPUs only takes the first for ``"cpu"``.
        precision: of the graph; another one than the bundle's is an error. None takes what there is. ``"bf16"``
            computes the denoiser of a float32 bundle in bfloat16, on a backend that can.
        threads: CPU threads for one operator; None takes every core.

    Raises:
        BackendError: the backend is unknown, or cannot serve the device.
        BundleError: there is no such component, or a file of it is not what the manifest says.
        EngineError: the engine is damaged, or does not load; or it is stale, and the backend runs nothing else. The
            hint has the command that rebuilds it.
        MissingDependencyError: the backend's library is not installed; the hint names the extra.
        SettingsError: the bundle or the backend has another precision, or `threads` is out of range.
    """
    check_choice(bundle, backend, precision)
    options = EngineOptions(backend=backend, device=device, precision=precision, threads=threads)
    return find_backend(backend).load(bundle, component, options)


def check_choice(bundle: Bundle, backend: str, precision: EnginePrecision | None) -> None:
    """Checks what can be told without loading anything: that there is such a backend, and that it has the precision.

    Raises:
        BackendError: there is none.
        SettingsError: the bundle or the backend has another precision.
    """
    found = find_backend(backend)
    if precision == "bf16":
        if precision not in found.precisions:
            able = with_precision(precision)
            hint = f"add --backend {join_names(able)}" if able else None
            raise SettingsError(f"{backend} does not compute in bf16", hint=hint)
        precision = "fp32"  # of the graphs that it rounds
    check_precision(bundle, precision)


def load_engines(
    bundle: Bundle,
    components: Sequence[str],
    backend: str = DEFAULT.name,
    *,
    device: str = "cpu",
    precision: EnginePrecision | None = None,
    threads: int | None = None,
    low_memory: bool | None = False,
    seldom: Collection[str] = (),
) -> dict[str, Engine]:
    """The engines of several components, by name; on the CPU as many are loaded at the same time as there are threads.

    Args:
        bundle: the bundle.
        components: names of graphs.
        backend: as for `load_engine`, like the arguments after it.
        device: see there.
        precision: see there.
        threads: see there.
        low_memory: see `EngineOptions`.
        seldom: components that few calls need. On the CPU they are loaded when they are first called.

    Raises:
        SegrefineError: see `load_engine`; none stays open.
    """
    load = partial(load_engine, bundle, backend=backend, device=device, precision=precision, threads=threads)
    on_gpu = needs_gpu(backend, device)
    parts = {} if on_gpu else find_parts(bundle, components)
    loaded = [name for name in components if name not in parts]
    if low_memory is None:
        low_memory = not on_gpu and not _have_room(bundle, loaded)
    large = [name for name in loaded if low_memory and is_large(bundle, name)]
    room, specs = Room(), bundle.manifest.components
    later = {name: OnDemand(specs[name], partial(load, name), room) for name in large if len(large) > 1}
    if later:
        _LOGGER.info("of %s, only the one in use is loaded: memory is short", ", ".join(later))
    for name in {*loaded} & {*seldom} - {*later} if not on_gpu else ():
        later[name] = OnDemand(specs[name], partial(load, name), Room())
    rest = [name for name in loaded if name not in later]
    engines: dict[str, Engine] = {**later, **_load_all(bundle, rest, load, on_gpu, threads)}
    engines |= {name: EnginePart(engines[whole], specs[name]) for name, whole in parts.items()}
    return {name: engines[name] for name in components}


def _load_all(
    bundle: Bundle, names: Sequence[str], load: Callable[[str], Engine], one_by_one: bool, threads: int | None
) -> dict[str, Engine]:
    """Load engines, the largest first; if one fails, none stays open."""
    cores = usable_cores() if threads is None else check_threads(threads)
    loading: dict[str, Future[Engine]] = {}
    with ExitStack() as stack:
        with ThreadPoolExecutor(1 if one_by_one else max(1, min(cores, len(names)))) as pool:
            for name in sorted(names, key=partial(graph_size, bundle), reverse=True):
                loading[name] = pool.submit(load, name)
                stack.callback(_close, loading[name])
            wait(loading.values())  # where a signal ends this, leaving the pool still waits for its threads
        engines = {name: loading[name].result() for name in names}
        stack.pop_all()
    return engines


def _have_room(bundle: Bundle, components: Sequence[str]) -> bool:
    """Return whether the free memory holds the weights of all components, and as much again for what they compute."""
    free = free_memory()
    return free is None or 2 * sum(graph_size(bundle, name) for name in components) <= free


def peak_memory(backend: str, device: str) -> int | None:
    """The most memory of its GPU that this process took, bytes, see `Gpu.peak`; None for engines on the CPU.

    Raises:
        BackendError: there is no such device.
    """
    _, index = parse_device(device)
    return open_gpu(index).peak if needs_gpu(backend, device) else None


def served_sizes(engine: Engine) -> list[dict[str, tuple[int, int]]]:
    """The sizes that an engine was built for: for each profile the least and the most of each symbol; none is any."""
    sizes: list[dict[str, tuple[int, int]]] = getattr(engine, "sizes", [{}])
    return sizes


def built_options(bundle: Bundle, component: str, backend: str, device: str) -> list[BuildOptions]:
    """Return the options that rebuild the engines `load_engine` would load; empty if graphs run as they are.

    Raises:
        SegrefineError: see `load_engine`.
    """
    return find_backend(backend).built_options(bundle, component, device)


def _close(loading: Future[Engine]) -> None:
    if loading.done() and not loading.exception():
        loading.result().close()
