"""Meaning of `--backend auto` on this machine: the best backend that is installed and can run here."""

from __future__ import annotations

from pathlib import Path

from segrefine.engines.backends import BACKENDS, DEFAULT
from segrefine.engines.engine import EnginePrecision, parse_device
from segrefine.engines.options import AUTO


def choose_backend(backend: str, bundle: str | Path, device: str, precision: EnginePrecision | None = None) -> str:
    """The backend that runs a bundle: the named one, or for "auto" the best one here.

    The first is one that runs nothing but built engines, if the bundle has an engine of each graph for this device.
    Next come the others that are installed, in the order of the table, and last the default. A CPU never takes the
    place of a GPU. A precision that graphs do not have leaves only backends that compute in it.

    Args:
        backend: a name in `BACKENDS`, or "auto".
        bundle: the bundle's folder.
        device: "cpu", "cuda" or "cuda:N".
        precision: what the engines are to compute in.

    Raises:
        BackendError: there is no such device.
    """
    if backend != AUTO:
        return backend
    kind, index = parse_device(device)
    on_device = [each for each in BACKENDS.values() if each.serves(kind, None)]
    fitting = [each for each in on_device if each.serves(kind, precision)] or on_device
    fitting.sort(key=lambda each: not each.needs_build)
    ready = (each for each in fitting if each.is_ready(Path(bundle), index))
    return next(ready, DEFAULT if DEFAULT in fitting else fitting[0]).name
