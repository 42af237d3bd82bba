"""`export`, `parity` and `build-engine`: what they say on the way, and what they refuse before the work begins."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import segrefine.assets
from segrefine.bundle import MANIFEST
from tests.tiny_bundle import write_bundle

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from segrefine.cli import main; main(sys.argv[1:])"


def run_without_torch(*words: object) -> list[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr.splitlines()


def test_export_tells_its_stages_and_no_library_does(run, tiny_checkpoint, tmp_path):
    result = run("export", tiny_checkpoint, tmp_path / "bundle", "--components", "text_encoder", "--json")
    assert result.exit_code == 0, result.output
    stages = ["looking at the model", "loading PyTorch", "text_encoder"]
    assert result.stderr.splitlines() == [f"exporting {tiny_checkpoint}: {stage}" for stage in stages]
    assert json.loads(result.stdout)["components"] == ["text_encoder"]


def test_parity_tells_its_stages_and_no_library_does(run):
    result = run("parity", "demo", "--reference", "demo", "--backend", "abacus")
    assert result.exit_code == 1
    told, error = result.stderr.splitlines()[:-2], result.stderr.splitlines()[-2]
    assert told == ["comparing: looking at the model", "comparing: loading PyTorch"]
    assert "abacus" in error


def test_export_refuses_a_taken_place_before_it_loads_anything(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    error, _ = run_without_torch("export", "demo", tmp_path)
    assert "is not a bundle" in error
    write_bundle(tmp_path / "bundle")
    error, hint = run_without_torch("export", "demo", tmp_path / "bundle")
    assert "exists already" in error and "--overwrite" in hint
    error, _ = run_without_torch("export", "demo", tmp_path / "none" / "bundle")
    assert "cannot write" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "notes.txt"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--quantize", "int8"], "--quantize and --calibrate together"),
        (["--calibrate", "demo"], "--quantize and --calibrate together"),
        (["--quantize", "int8", "--calibrate", "demo", "--dtype", "fp16"], "--quantize starts from fp32"),
        (["--quantize", "int8", "--calibrate", "demo", "--components", "unet"], "leave --components out"),
    ],
)
def test_options_that_cannot_go_together_are_refused_first(tmp_path, more, message):
    error, hint = run_without_torch("export", "demo", tmp_path / "bundle", *more)
    assert message in error and "--help" in hint
    assert not list(tmp_path.iterdir())


def test_copies_of_one_image_calibrate_nothing(run, tmp_path):
    sample = segrefine.assets.demo_samples()
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for number in range(5):
            shutil.copy(sample / folder / "02-car-erode.png", tmp_path / "data" / folder / f"{number}.png")
    (tmp_path / "data" / "labels.json").write_text(json.dumps({str(number): "car" for number in range(5)}))
    done = run("export", "demo", tmp_path / "b", "--quantize", "int8", "--calibrate", tmp_path / "data")
    assert done.exit_code == 1 and "expected at least 4 different images, got 1" in done.stderr
    assert "unet" not in done.stderr  # before anything is exported
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_export_leaves_the_bundle_that_it_may_replace_until_it_is_done(tmp_path):
    write_bundle(tmp_path / "bundle")
    before = (tmp_path / "bundle" / MANIFEST).read_bytes()
    error = run_without_torch("export", "demo", tmp_path / "bundle", "--overwrite")[-2]
    assert "torch is not installed" in error
    assert (tmp_path / "bundle" / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("command", ["export MODEL BUNDLE", "parity demo --reference MODEL"])
def test_a_damaged_model_is_refused_before_pytorch_is_loaded(command, tiny_checkpoint, tmp_path):
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    places = {"MODEL": folder, "BUNDLE": tmp_path / "bundle"}
    *_, error, _ = run_without_torch(*(places.get(word, word) for word in command.split()))
    assert "is truncated" in error
    assert not (tmp_path / "bundle").exists()


def test_parity_refuses_what_is_no_bundle_before_it_loads_anything(tmp_path):
    error, _ = run_without_torch("parity", tmp_path, "--reference", "demo")
    assert "is not a bundle" in error


@pytest.fixture
def demo_copy(tmp_path, monkeypatch) -> Path:
    """A copy of the shipped bundle in its place, so that nothing is built inside of the package."""
    copy = Path(shutil.copytree(segrefine.assets.demo_bundle(), tmp_path / "demo-bundle"))
    monkeypatch.setitem(segrefine.assets.SHIPPED_BUNDLES, "demo", copy)
    return copy


def test_build_engine_knows_the_demo(run, demo_copy):
    result = run("build-engine", "demo", "--components", "alignment", "--json")
    assert result.exit_code == 0, result.output
    [engine] = json.loads(result.stdout)["engines"]
    assert Path(engine["path"]).is_relative_to(demo_copy) and Path(engine["path"]).is_file()


def test_build_engine_of_a_demo_that_cannot_be_written_to(fails, demo_copy):
    (demo_copy / "engines").write_text("in the way")
    assert "cannot write" in fails("build-engine", "demo")
