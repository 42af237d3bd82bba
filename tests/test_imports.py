"""The lean install: what trains, exports and serves apart, everything imports without torch or any other extra."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import segrefine

EXTRAS = (
    "torch",
    "diffusers",
    "transformers",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "safetensors",
    "cv2",
    "skimage",
    "fastapi",
    "uvicorn",
    "prometheus_client",
    "httpx",
    "ray",
    "tokenizers",
    "huggingface_hub",
)
ROOT = Path(segrefine.__file__).parent
APART = {"reference", "export", "serve", "train", "integrations"}
"""Parts that need an extra."""
MODULES = sorted(
    "segrefine." + ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in ROOT.rglob("*.py")
    if file.relative_to(ROOT).parts[0] not in APART and not file.name.startswith("__")
)


def run_blocked(code: str) -> subprocess.CompletedProcess[str]:
    block = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS}))\n"
    return subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["segrefine", "segrefine.runtime", "segrefine.engines", "segrefine.cli"])
def test_entry_point_imports_without_extras(name: str) -> None:
    done = run_blocked(f"import {name}")
    assert done.returncode == 0, done.stderr


def test_every_module_of_the_runtime_imports_without_extras() -> None:
    assert "segrefine.engines.onnxruntime.backend" in MODULES
    done = run_blocked("\n".join(f"import {name}" for name in MODULES))
    assert done.returncode == 0, done.stderr


def test_block_works() -> None:
    assert "ModuleNotFoundError" in run_blocked("import torch").stderr


def test_bare_import_loads_nothing_of_weight() -> None:
    done = run_blocked("import segrefine; print(*(name for name, module in sys.modules.items() if module))")
    assert not {"numpy", "PIL", "tokenizers", "click"} & set(done.stdout.split())


@pytest.mark.parametrize("name", segrefine.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(segrefine, name)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        segrefine.nonsense  # noqa: B018


def rooms_imported() -> dict[str, set[str]]:
    """Each room of the package, a folder or a module, with the rooms that it imports."""
    found: dict[str, set[str]] = {}
    for file in ROOT.rglob("*.py"):
        room = file.relative_to(ROOT).with_suffix("").parts[0]
        if room == "__init__":
            continue
        imported = found.setdefault(room, set())
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("segrefine"):
                _, *inside = node.module.split(".")
                imported |= {inside[0]} if inside else {each.name for each in node.names if each.name[0] != "_"}
        imported.discard(room)
    return found


def test_rooms_import_only_rooms_below_as_the_architecture_page_says() -> None:
    page = (ROOT.parent / "docs/architecture.md").read_text().partition("## Walk")[0]
    lines = re.findall(r"^\| (\d+) \| (.*?) \|", page, re.MULTILINE)
    floors = {room: int(floor) for floor, rooms in lines for room in re.findall(r"`(\w+)`", rooms)}
    imported = rooms_imported()
    assert floors.keys() == imported.keys()
    for room, others in imported.items():
        climbing = sorted(other for other in others if floors[other] >= floors[room])
        assert not climbing, f"{room}, on floor {floors[room]}, imports {climbing}"


def test_folders_of_the_runtime_import_what_the_architecture_page_says() -> None:
    page = (ROOT.parent / "docs/architecture.md").read_text().partition("## Walk")[0]
    lines = re.findall(r"^\| `(\w+)` \|[^|]*\| (.*) \|$", page, re.MULTILINE)
    allowed = {folder: set(re.findall(r"`(\w+)`", rooms)) & {name for name, _ in lines} for folder, rooms in lines}
    folders = {path.name for path in (ROOT / "runtime").iterdir() if (path / "__init__.py").exists()}
    assert allowed.keys() == folders
    for file in (ROOT / "runtime").rglob("*.py"):
        place = file.relative_to(ROOT / "runtime").parts[0]
        imported = set(re.findall(r"^ *from segrefine\.runtime\.(\w+)", file.read_text(), re.MULTILINE))
        if place in folders:
            looked_at = imported & folders if place == "drawing" else imported  # it draws the methods' results
            assert looked_at <= allowed[place] | {place}, file.name
        else:
            assert "drawing" not in imported, file.name


def test_every_class_has_a_name_of_its_own() -> None:
    homes: dict[str, set[str]] = {}
    for file in ROOT.rglob("*.py"):
        if file.relative_to(ROOT).parts[0] != "train":  # its Engine, Job and Journal are still to be renamed
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    homes.setdefault(node.name, set()).add(str(file.relative_to(ROOT)))
    assert not {name: sorted(files) for name, files in homes.items() if len(files) > 1}


def test_each_class_has_a_name_of_its_own() -> None:
    trees = {file.relative_to(ROOT): ast.parse(file.read_text(encoding="utf-8")) for file in ROOT.rglob("*.py")}
    classes: dict[str, list[str]] = {}
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(str(file))
    assert {name: files for name, files in classes.items() if len(files) > 1} == {}
