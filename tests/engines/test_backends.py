"""The table of backends: nothing else names one, and a line in it is all that a new one needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import segrefine
from segrefine.bundle import Bundle
from segrefine.engines import BACKENDS, Backend, build_engine, load_engine

ROOT = Path(segrefine.__file__).parent
TABLE = ROOT / "engines" / "backends.py"
SCENE = "02-car-erode.png"
QUICK = ("--preset", "fast")


def folder_of(backend: Backend) -> Path:
    return ROOT.joinpath(*type(backend).__module__.split(".")[1:-1])


def naming(backend: Backend) -> re.Pattern[str]:
    """Finds the backend's name, its library's, and its modules', in code and in prose."""
    words = {backend.name, backend.title, *backend.modules}
    return re.compile("|".join(rf"(?<![a-z]){re.escape(word)}(?![a-z])" for word in words), re.IGNORECASE)


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=lambda backend: backend.name)
def test_no_other_file_names_a_backend(backend: Backend) -> None:
    folder, pattern = folder_of(backend), naming(backend)
    assert any(pattern.search(path.read_text(encoding="utf-8")) for path in folder.rglob("*.py")), "nothing is found"
    others = (path for path in ROOT.rglob("*.py") if folder not in path.parents and path != TABLE)
    naming_it = {str(path.relative_to(ROOT)) for path in others if pattern.search(path.read_text(encoding="utf-8"))}
    assert naming_it == set()


def test_each_backend_has_a_folder_of_its_own() -> None:
    folders = {name: folder_of(backend) for name, backend in BACKENDS.items()}
    assert all((folder / "backend.py").is_file() and folder.parent == ROOT / "engines" for folder in folders.values())
    assert all(name == backend.name for name, backend in BACKENDS.items())


@pytest.mark.parametrize("name", [name for name, each in BACKENDS.items() if "cpu" in each.devices])
def test_each_backend_builds_and_loads_by_its_object(bundle: Bundle, name: str) -> None:
    [built] = build_engine(bundle, backend=name, components=["linear"])
    assert built.path.suffix == BACKENDS[name].recipe_kind.suffix and built.path.parts[-3] == name
    with load_engine(bundle, "linear", name) as engine:
        assert engine.spec.name == "linear"
