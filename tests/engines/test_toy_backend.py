"""A backend that a test adds, in one file and one line of the table, works in every command that takes a backend."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from benchmarks.serve.process import running
from segrefine.assets import demo_bundle, demo_gs_bundle, demo_samples, photo_samples
from segrefine.bundle import Bundle
from segrefine.cli import main, samples
from segrefine.cli.group import COMMANDS
from segrefine.engines import BACKENDS
from tests.datasets.benchmark_sets import write_big
from tests.engines import toy_backend
from tests.engines.toy_backend import TOY
from tests.tuning.labelled import copy_bundle, write_scenes

PROGRAM = "tests.engines.toy_backend"
"""The module that is segrefine with the toy: processes of its own know the toy too."""
SCENE = "02-car-erode.png"
IMAGE, MASK = (demo_samples() / folder / SCENE for folder in ("images", "masks"))
TOOLS = ("--backend", "toy", "--threads", 1)
QUICK = ("--preset", "fast", *TOOLS)


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


def read(*words: object) -> dict[str, Any]:
    """The JSON that a command prints."""
    return json.loads(run(*words, "--json").stdout)


def read_apart(*words: object) -> dict[str, Any]:
    """The JSON that a command prints in a process of its own, as one that starts processes needs it."""
    command = [sys.executable, "-m", PROGRAM, *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert (values.get("model") or values["options"])["backend"] == "toy"
    return values


def refine(bundle: Path, backend: str, output: Path) -> np.ndarray:
    words = ("--label", "car", "--bundle", bundle, "--backend", backend, "--preset", "fast", "-o", output)
    run("refine", IMAGE, MASK, *words)
    return np.asarray(Image.open(output))


def ran(suffix: str) -> set[str]:
    """The components that the toy ran in this process, from files of a suffix."""
    return {component for component, found in toy_backend.CALLS if found == suffix}


def first_samples(folder: Path) -> dict[str, samples.Sample]:
    """The first sample of a folder."""
    return dict([next(iter(samples.load_samples(folder).items()))])


def check_refine(folder: Path, patch: pytest.MonkeyPatch) -> None:
    mask = refine(demo_bundle(), "toy", folder / "toy.png")
    assert {"unet", "vae_encoder"} <= ran(".onnx")
    np.testing.assert_array_equal(mask, refine(demo_bundle(), "onnxruntime", folder / "other.png"))


def check_segment(folder: Path, patch: pytest.MonkeyPatch) -> None:
    run("segment", IMAGE, "the car", "--bundle", demo_gs_bundle(), *QUICK, "-o", folder / "labels.png")
    assert "label_denoiser" in ran(".onnx") and (folder / "labels.png").is_file()


def check_batch(folder: Path, patch: pytest.MonkeyPatch) -> None:
    data = write_scenes(folder / "data", 1)
    values = read_apart("batch", data, folder / "out", *QUICK, "--workers", 1)
    assert values["done"] == 1 and values["options"]["backend"] == "toy"


def check_watch(folder: Path, patch: pytest.MonkeyPatch) -> None:
    times = ("--interval", 0.05, "--settle", 0.1, "--stop-after", 0.5)
    values = read_apart("watch", write_scenes(folder / "data", 1), folder / "out", *QUICK, *times)
    assert values["done"] == 1


def check_sweep(folder: Path, patch: pytest.MonkeyPatch) -> None:
    data = write_scenes(folder / "data", 1)
    values = read_apart("sweep", data, data, folder / "out", "--vary", "mixing=0.5", *QUICK, "--workers", 1)
    assert [row["value"] for row in values["rows"]] == [0.5, 1.0] and not any(row["failed"] for row in values["rows"])


def check_bench(folder: Path, patch: pytest.MonkeyPatch) -> None:
    words = ("--compare", "none", "--cases", 1, "--workers", 1)
    values = read_apart("bench", "big", write_big(folder / "data"), "-o", folder / "out", *QUICK, *words)
    assert values["methods"]["segrefine"]["masks"]["count"] == 2 and not values["failures"]


def check_tune(folder: Path, patch: pytest.MonkeyPatch) -> None:
    bundle = copy_bundle(folder / "bundle", effect_range=(1e6, 2e6))  # no label changes the prediction that much
    data = write_scenes(folder / "data", 10, label="qqq")
    values = read("tune", data, data / "truth", "--bundle", bundle, "-o", folder / "out", *TOOLS)
    assert len(values["fit_images"]) == 6 and "unet" in ran(".onnx")


def check_demo(folder: Path, patch: pytest.MonkeyPatch) -> None:
    few = {place: first_samples(place) for place in (photo_samples(), demo_samples())}
    patch.setattr("segrefine.cli.demo.load_samples", few.get)
    values = read("demo", "--output", folder / "out", *TOOLS)
    assert values["model"]["backend"] == "toy" and {"unet", "label_denoiser"} <= ran(".onnx")


def check_serve(folder: Path, patch: pytest.MonkeyPatch) -> None:
    words = ("demo", "demo-gs", *map(str, TOOLS))
    with running(folder, *words, program=PROGRAM) as service, service.http() as http:
        models = http.get("/v1/models").json()
        assert {each["name"]: each["backend"] for each in models["models"]} == {
            "demo": "toy", "demo-words": "toy", "demo-gs": "toy"
        }  # fmt: skip
        files = {"image": IMAGE.read_bytes(), "mask": MASK.read_bytes()}
        answer = http.post("/v1/refine", files=files, data={"label": "car"})
        assert answer.status_code == 200, answer.text


def check_export_triton(folder: Path, patch: pytest.MonkeyPatch) -> None:
    run("export-triton", "demo", folder / "models", "--backend", "toy")
    assert 'string_value: "toy"' in (folder / "models" / "demo" / "config.pbtxt").read_text()


def check_build_engine(folder: Path, patch: pytest.MonkeyPatch) -> None:
    demo = Bundle.open(shutil.copytree(demo_bundle(), folder / "demo"))
    built = read("build-engine", demo.path, "--backend", "toy", "--workspace", 5)["engines"]
    assert [Path(each["path"]).suffix for each in built] == [".toy"] * len(demo.manifest.graphs)


CHECKS: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "refine": check_refine, "segment": check_segment, "batch": check_batch, "watch": check_watch, "bench": check_bench,
    "sweep": check_sweep, "tune": check_tune, "demo": check_demo, "serve": check_serve,
    "export-triton": check_export_triton, "build-engine": check_build_engine,
}  # fmt: skip
"""For each command: run it with the toy in a folder, and check that it worked. `test_parity` has its own models."""


@pytest.mark.parametrize("command", CHECKS)
def test_it_works_in_every_command(command: str, toy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CHECKS[command](tmp_path, monkeypatch)


def test_no_command_is_left_out() -> None:
    context = click.Context(main)
    commands = {name: main.get_command(context, name) for name in COMMANDS}
    taking = {name for name, each in commands.items() if each and "backend" in {option.name for option in each.params}}
    assert taking == {*CHECKS, "parity"}


@pytest.mark.parametrize("tiny_label_checkpoint", ["area"], indirect=True)
def test_parity(
    toy: None, tiny_label_bundle: Path, tiny_label_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = first_samples(demo_samples())
    monkeypatch.setattr("segrefine.cli.samples.load_samples", lambda folder: scene)
    values = read("parity", tiny_label_bundle, "--reference", tiny_label_checkpoint, "--backend", "toy")
    assert values["ok"] and values["backend"] == "toy"
    assert {"label_denoiser", "vae_encoder"} <= ran(".onnx")


def test_engines_are_built_once_and_a_damaged_one_is_told(toy: None, demo: Bundle, tmp_path: Path) -> None:
    build = ("build-engine", demo.path, "--backend", "toy")
    built = read(*build)["engines"]
    assert all(each["cached"] for each in read(*build)["engines"])
    mask = refine(demo.path, "toy", tmp_path / "toy.png")
    assert {"unet", "vae_encoder"} <= ran(".toy") and not ran(".onnx")
    np.testing.assert_array_equal(mask, refine(demo.path, "onnxruntime", tmp_path / "other.png"))
    states = {each["component"]: each["state"] for each in read("inspect", demo.path)["engines"]}
    assert states == dict.fromkeys(demo.manifest.graphs, "current")
    Path(built[0]["path"]).write_bytes(b"broken")
    said = run("inspect", demo.path, code=1).stderr
    assert "damaged" in said and f"segrefine build-engine {demo.path} --backend toy --device cpu" in said


def test_doctor_lists_it(toy: None) -> None:
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
