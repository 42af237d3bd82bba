"""A graph that gives a part of what another one gives, served by the other's engine: their weights are held once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from segrefine.bundle import Bundle
from segrefine.engines.engine import Closing, Engine
from segrefine.engines.recipe import is_large
from segrefine.spec import ComponentSpec


class EnginePart(Closing):
    """Some of the outputs of an engine.

    Attributes:
        spec: what it takes and gives.
    """

    def __init__(self, whole: Engine, spec: ComponentSpec) -> None:
        self._whole, self.spec = whole, spec

    def __call__(self, feeds: Mapping[str, NDArray[Any]], *, only: str | None = None) -> dict[str, NDArray[Any]]:
        """The outputs by name; see `Engine`."""
        names = [only] if only else [tensor.name for tensor in self.spec.outputs]
        outputs = self._whole(feeds, only=names[0] if len(names) == 1 else None)
        return {name: outputs[name] for name in names}

    def close(self) -> None:
        """Close nothing: the engine belongs to the other graph."""


def find_parts(bundle: Bundle, components: Sequence[str]) -> dict[str, str]:
    """Find large components whose outputs another one gives too, from the same inputs; with the name of the other."""
    specs = bundle.manifest.components
    large = [name for name in components if is_large(bundle, name)]
    return {name: whole for name in large for whole in large if _is_part(specs[name], specs[whole])}


def _is_part(part: ComponentSpec, whole: ComponentSpec) -> bool:
    return part.inputs == whole.inputs and {*part.outputs} < {*whole.outputs}
