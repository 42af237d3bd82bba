"""A backend of its own, as somebody would add one. As a program this file is segrefine with that backend.

It runs graphs in the library that checks exports, and "builds" an engine by copying the graph.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segrefine.bundle import Bundle
from segrefine.engines import BACKENDS, Backend, BuildOptions, Closing, EngineOptions, open_plain_session
from segrefine.engines.backend import Ability
from segrefine.engines.recipe import EngineRecipe, find_engine, graph_hashes
from segrefine.errors import BackendError
from segrefine.spec import ComponentSpec

CALLS: list[tuple[str, str]] = []
"""What ran in this process: the component, and the suffix of its file."""


class ToyRecipe(EngineRecipe):
    suffix = ".toy"


class ToyEngine(Closing):
    def __init__(self, path: Path, spec: ComponentSpec) -> None:
        self.spec, self._path = spec, path
        self._session = open_plain_session(path)

    def __call__(self, feeds: Mapping[str, NDArray[Any]], *, only: str | None = None) -> dict[str, NDArray[Any]]:
        CALLS.append((self.spec.name, self._path.suffix))
        names = [only] if only else [each.name for each in self.spec.outputs]
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))

    def close(self) -> None:
        pass


class Toy(Backend):
    def recipe(self, bundle: Bundle, component: str, device: str, options: BuildOptions) -> ToyRecipe:
        if device != "cpu":
            raise BackendError(f"the toy runs on the CPU, not on {device!r}", hint="leave --device out")
        return ToyRecipe(
            component=component, graph=graph_hashes(bundle, component), backend=self.name, version="1",
            precision=bundle.manifest.dtype, profile="dynamic", device="cpu", hardware="any",
        )  # fmt: skip

    def build(self, bundle: Bundle, recipe: EngineRecipe, target: Path, device: str, options: BuildOptions) -> None:
        graph = bundle.graph(recipe.component)
        for file in bundle.graph_files(recipe.component):
            path = bundle.path / file
            shutil.copy(path, target if path == graph else target.with_name(path.name))

    def load(self, bundle: Bundle, component: str, options: EngineOptions) -> ToyEngine:
        built = find_engine(bundle, self.current_recipe(bundle, component, options.device))
        return ToyEngine(built or bundle.graph(component), bundle.manifest.components[component])

    def abilities(self) -> Iterator[Ability]:
        yield self._try("run", "cpu", self.is_installed)


TOY = Toy(
    name="toy", title="Toy", modules=("numpy",), packages=("numpy",), devices=("cpu",), recipe_kind=ToyRecipe,
    build_options={"workspace": ("cpu",)},
)  # fmt: skip

if __name__ in ("__main__", "__mp_main__"):  # the processes of a batch import this file by the second name
    BACKENDS["toy"] = TOY

if __name__ == "__main__":
    from segrefine.cli import main

    main()
