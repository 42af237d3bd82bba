"""The table of backends: nothing else names one, and a line in it is all that a new one needs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import segrefine
from segrefine.assets import demo_bundle, demo_gs_bundle, demo_samples
from segrefine.bundle import Bundle
from segrefine.cli import main
from segrefine.cli.samples import load_samples
from segrefine.engines import BACKENDS, Backend, EngineOptions, build_engine, load_engine
from segrefine.runtime.engine_set import PipelineSetup
from segrefine.serve.models import Offer, Served
from tests.engines import toy_backend
from tests.engines.toy_backend import TOY

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


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toy in the table."""
    monkeypatch.setitem(BACKENDS, "toy", TOY)
    toy_backend.CALLS.clear()
    yield


@pytest.fixture
def demo(tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(demo_bundle(), tmp_path / "demo"))


def run(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def refine(bundle: Bundle, backend: str, output: Path) -> np.ndarray:
    scene = [demo_samples() / folder / SCENE for folder in ("images", "masks")]
    run("refine", *scene, "--label", "car", "--bundle", bundle.path, "--backend", backend, *QUICK, "-o", output)
    return np.asarray(Image.open(output))


def read(*words: object) -> dict[str, Any]:
    """The JSON that a command prints."""
    values: dict[str, Any] = json.loads(run(*words, "--json").stdout)
    return values


def ran(suffix: str) -> set[str]:
    """The components that the toy ran from files of a suffix."""
    return {component for component, found in toy_backend.CALLS if found == suffix}


def test_build_refine_and_inspect(toy: None, demo: Bundle, tmp_path: Path) -> None:
    build = ("build-engine", demo.path, "--backend", "toy")
    built = read(*build, "--workspace", 5)["engines"]
    assert [Path(each["path"]).suffix for each in built] == [".toy"] * len(demo.manifest.graphs)
    assert all(each["cached"] for each in read(*build)["engines"])
    mask = refine(demo, "toy", tmp_path / "toy.png")
    assert {"unet", "vae_encoder"} <= ran(".toy") and not ran(".onnx")
    np.testing.assert_array_equal(mask, refine(demo, "onnxruntime", tmp_path / "other.png"))
    states = {each["component"]: each["state"] for each in read("inspect", demo.path)["engines"]}
    assert states == dict.fromkeys(demo.manifest.graphs, "current")
    Path(built[0]["path"]).write_bytes(b"broken")
    said = run("inspect", demo.path, code=1).stderr
    assert "damaged" in said and f"segrefine build-engine {demo.path} --backend toy --device cpu" in said


def test_segment_and_doctor(toy: None, tmp_path: Path) -> None:
    image, labels = demo_samples() / "images" / SCENE, tmp_path / "labels.png"
    run("segment", image, "the car", "--bundle", demo_gs_bundle(), "--backend", "toy", "--preset", "fast", "-o", labels)
    assert "label_denoiser" in ran(".onnx") and labels.is_file()
    values = read("doctor")
    [ability] = [each for each in values["abilities"] if each["backend"] == "toy"]
    assert ability["task"] == "run" and ability["possible"] and "numpy" in values["packages"]


def test_help_and_errors_list_it(toy: None, demo: Bundle) -> None:
    helps = {command: " ".join(run(command, "--help").stdout.split()) for command in ("refine", "build-engine")}
    assert all(f"{', '.join(BACKENDS)}" in text for text in helps.values())
    assert "Scratch memory of an engine. (tensorrt, tensorrt-rtx, toy)" in helps["build-engine"]
    assert run("build-engine", demo.path, "--backend", "abacus", code=1).stderr.strip().endswith("toy")
    said = run("build-engine", demo.path, "--backend", "toy", "--tf32", code=1).stderr
    assert "toy has no such options: tf32" in said and "onnxruntime, tensorrt or tensorrt-rtx" in said
    assert (
        "the toy runs on the CPU"
        in run("build-engine", demo.path, "--backend", "toy", "--device", "cuda", code=1).stderr
    )


@pytest.mark.parametrize("tiny_label_checkpoint", ["area"], indirect=True)
def test_parity(
    toy: None, tiny_label_bundle: Path, tiny_label_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = dict([next(iter(load_samples(demo_samples()).items()))])
    monkeypatch.setattr("segrefine.cli.samples.load_samples", lambda folder: scene)
    values = read("parity", tiny_label_bundle, "--reference", tiny_label_checkpoint, "--backend", "toy")
    assert values["ok"] and values["backend"] == "toy"
    assert {"label_denoiser", "vae_encoder"} <= ran(".onnx")


def test_service_and_triton(toy: None, tmp_path: Path) -> None:
    setup = PipelineSetup(bundle=demo_bundle(), engines=EngineOptions(backend="toy"))
    served = Served(name="demo", backend="toy", device="cpu", precision="fp32")
    with Offer(served=served, method="g4seg", setup=setup).open() as model:
        assert model.describe()["backend"] == "toy"
    run("export-triton", "demo", tmp_path / "models", "--backend", "toy")
    assert 'string_value: "toy"' in (tmp_path / "models" / "demo" / "config.pbtxt").read_text()


def test_batch_in_processes_of_its_own(tmp_path: Path) -> None:
    source = tmp_path / "data"
    for folder in ("images", "masks"):
        (source / folder).mkdir(parents=True)
        shutil.copy(demo_samples() / folder / SCENE, source / folder / SCENE)
    (source / "labels.json").write_text(json.dumps({Path(SCENE).stem: "car"}))
    command = [sys.executable, toy_backend.__file__, "batch", source, tmp_path / "out", "--backend", "toy", "--json"]
    done = subprocess.run([*map(str, command), *QUICK, "--workers", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["done"] == 1 and values["options"]["backend"] == "toy" and values["model"]["backend"] == "toy"


@pytest.mark.parametrize("name", [name for name, each in BACKENDS.items() if "cpu" in each.devices])
def test_each_backend_builds_and_loads_by_its_object(bundle: Bundle, name: str) -> None:
    [built] = build_engine(bundle, backend=name, components=["linear"])
    assert built.path.suffix == BACKENDS[name].recipe_kind.suffix and built.path.parts[-3] == name
    with load_engine(bundle, "linear", name) as engine:
        assert engine.spec.name == "linear"
