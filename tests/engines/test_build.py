"""Engines on disk: built, kept, found again; damaged ones are refused, stale ones are left out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from segrefine.bundle import Bundle
from segrefine.engines import BACKENDS, BuildOptions, EngineFile, build_engine, load_engine
from segrefine.errors import (
    BackendError,
    BundleError,
    EngineError,
    EngineWarning,
    IntegrityError,
    OutputError,
    SettingsError,
)
from segrefine.storage import LOCK
from tests.tiny_bundle import CHANNELS, chain, linear

SAMPLE = np.random.default_rng(1).normal(size=(3, CHANNELS)).astype(np.float32)
TIMESTEP = np.arange(3)


def build(bundle: Bundle, *components: str, overwrite: bool = False) -> list[EngineFile]:
    return build_engine(bundle, backend="onnxruntime", components=components or None, overwrite=overwrite)


def test_built_engines_compute_what_the_graphs_do(bundle: Bundle) -> None:
    turns: list[str] = []
    engines = build_engine(bundle, backend="onnxruntime", precision="fp32", progress=turns.append)
    assert turns == [engine.component for engine in engines] == ["linear", "chain"]
    assert not any(engine.cached for engine in engines)
    with load_engine(bundle, "linear") as engine:
        outputs = engine({"sample": SAMPLE, "timestep": TIMESTEP})
    np.testing.assert_allclose(outputs["out_sample"], linear(SAMPLE, TIMESTEP), atol=1e-4)
    with load_engine(bundle, "chain") as engine:
        np.testing.assert_allclose(engine({"sample": SAMPLE})["out_sample"], chain(SAMPLE), rtol=1e-4, atol=1e-3)


def test_build_optimises(bundle: Bundle) -> None:
    [engine] = build(bundle, "chain")
    operators = [node.op_type for node in onnx.load(engine.path).graph.node]
    assert operators.count("MatMul") == 1, "the product of the two constants was not folded"


def test_file_name_and_sidecar_say_what_the_engine_is(bundle: Bundle) -> None:
    import onnxruntime

    [engine] = build(bundle, "chain")
    version = onnxruntime.__version__
    assert engine.path == bundle.path / f"engines/onnxruntime/chain/fp32_dynamic_{version}_cpu.onnx"
    sidecar = json.loads(engine.path.with_suffix(".json").read_text())
    expected = {
        "component": "chain",
        "backend": "onnxruntime",
        "version": version,
        "precision": "fp32",
        "device": "cpu",
    }
    assert expected.items() <= sidecar.items()
    assert sidecar["graph"] == {"chain/model.onnx": bundle.manifest.files["chain/model.onnx"].sha256}
    assert sidecar["files"][engine.path.name]["size"] == engine.path.stat().st_size


def test_external_data_stays_apart_and_counts(bundle: Bundle) -> None:
    [engine] = build(bundle, "linear")
    data = engine.path.with_name(engine.path.name + "_data")
    assert data.stat().st_size == 4 * CHANNELS**2
    os.truncate(data, 100)
    with pytest.raises(EngineError, match="expected 4096 bytes, got 100"):
        load_engine(bundle, "linear")


def test_engine_is_built_once(bundle: Bundle) -> None:
    [first] = build(bundle, "chain")
    written = first.path.stat().st_mtime_ns
    [second] = build(bundle, "chain")
    assert second.cached and second.path.stat().st_mtime_ns == written
    [third] = build(bundle, "chain", overwrite=True)
    assert not third.cached and third.path.stat().st_mtime_ns > written


def test_built_engine_is_what_is_loaded(bundle: Bundle) -> None:
    build(bundle, "chain")
    (bundle.path / "chain/model.onnx").unlink()
    with load_engine(bundle, "chain") as engine:
        assert engine.spec.name == "chain"


def test_without_a_built_engine_the_graph_serves(bundle: Bundle) -> None:
    with load_engine(bundle, "chain") as engine:
        np.testing.assert_allclose(engine({"sample": SAMPLE})["out_sample"], chain(SAMPLE), rtol=1e-4, atol=1e-3)


def cut(path: Path) -> None:
    os.truncate(path, 10)


def lose(path: Path) -> None:
    path.unlink()


def link(path: Path) -> None:
    path.rename(path.with_name("twin"))
    path.symlink_to(path.with_name("twin"))


def break_sidecar(path: Path) -> None:
    path.with_suffix(".json").write_text("{")


def empty_sidecar(path: Path) -> None:
    path.with_suffix(".json").write_text("[]")


def edit_sidecar(**changed: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        sidecar = path.with_suffix(".json")
        sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | changed))

    return edit


def of_another_version(path: Path) -> None:
    edit_sidecar(version="1.0.0", key="x")(path)
    for suffix in (".json", ".onnx"):
        path.with_suffix(suffix).rename(path.with_name(f"fp32_dynamic_1.0.0_cpu{suffix}"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "is damaged: .* bytes, got 10"),
        (lose, "is damaged: .* is missing"),
        (link, "is damaged: .* through a link"),
        (break_sidecar, "json: it cannot be read as JSON"),
        (empty_sidecar, "holds no JSON object"),
        (edit_sidecar(files={"../../../../outside": {"sha256": "", "size": 1}}), "is damaged"),
        (edit_sidecar(files={"x": {"size": 1}}), "is damaged"),
        (edit_sidecar(files=3), "is damaged"),
        (edit_sidecar(files={}), "the list of its files was altered"),
        (edit_sidecar(files_key="x"), "the list of its files was altered"),
    ],
)
def test_damaged_engine_is_refused_until_it_is_built_again(
    bundle: Bundle, damage: Callable[[Path], None], message: str
) -> None:
    [engine] = build(bundle, "chain")
    damage(engine.path)
    with pytest.raises(EngineError, match=message) as caught:
        load_engine(bundle, "chain")
    command = f"segrefine build-engine {bundle.path} --backend onnxruntime --device cpu --components chain"
    assert caught.value.hint == f"build it again: {command}"
    [again] = build(bundle, "chain")
    assert not again.cached
    load_engine(bundle, "chain").close()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (edit_sidecar(key="x"), "its key does not match its recipe"),
        (edit_sidecar(key="x", hardware="abacus"), "built for hardware abacus, here it is "),
        (edit_sidecar(key="x", graph={"chain/model.onnx": "y"}), "the graph was exported again"),
        (of_another_version, "built for version 1.0.0, here it is "),
    ],
)
def test_the_graph_is_used_in_the_place_of_a_stale_engine(
    bundle: Bundle, damage: Callable[[Path], None], message: str
) -> None:
    [engine] = build(bundle, "chain")
    damage(engine.path)
    sample = np.ones((1, CHANNELS), np.float32)
    with pytest.warns(EngineWarning, match=f"is stale: {message}.*The graph is used") as told:
        running = load_engine(bundle, "chain")
    with running:
        np.testing.assert_allclose(running({"sample": sample})["out_sample"], chain(sample), rtol=1e-4, atol=1e-3)
    command = f"segrefine build-engine {bundle.path} --backend onnxruntime --device cpu"
    assert str(told[0].message).endswith(f"build all again: {command}")
    [again] = build(bundle, "chain")
    assert not again.cached
    load_engine(bundle, "chain").close()


def test_engine_of_an_interrupted_build_does_not_count(bundle: Bundle) -> None:
    [engine] = build(bundle, "chain")
    engine.path.with_suffix(".json").unlink()
    cut(engine.path)
    leftover = engine.path.with_name(f".{engine.path.name}.partial-dead")
    leftover.mkdir()
    load_engine(bundle, "chain").close()
    build(bundle, "chain")
    assert not leftover.exists()


def test_altered_graph_is_never_built(bundle: Bundle) -> None:
    (bundle.path / "chain/model.onnx").write_bytes(b"\0" * bundle.manifest.files["chain/model.onnx"].size)
    with pytest.raises(IntegrityError, match="was altered"):
        build(bundle, "chain")
    assert os.listdir(bundle.path / "engines/onnxruntime/chain") == [LOCK]


@pytest.mark.parametrize("name", ["tensort", "", "ONNXRuntime"])
def test_unknown_backend_lists_the_known_ones(bundle: Bundle, name: str) -> None:
    for call, known in (
        (lambda: build_engine(bundle, backend=name), BACKENDS),
        (lambda: load_engine(bundle, "chain", name), BACKENDS),
    ):
        with pytest.raises(BackendError, match=f"there is no backend '{name}'") as caught:
            call()
        assert caught.value.hint == "choose one of: " + ", ".join(known)


def test_options_of_another_backend_and_other_slips(bundle: Bundle) -> None:
    with pytest.raises(SettingsError, match="onnxruntime has no such options"):
        build_engine(bundle, backend="onnxruntime", options=BuildOptions(workspace=5))
    with pytest.raises(SettingsError, match="expected a list of names"):
        build_engine(bundle, backend="onnxruntime", components="chain")
    for device in ("cuda:3", "foo"):
        with pytest.raises(BackendError, match=device):
            build_engine(bundle, backend="tensorrt-rtx", device=device)


def test_precision_that_the_bundle_has_not(bundle: Bundle) -> None:
    for call in (
        lambda: build_engine(bundle, backend="onnxruntime", precision="fp16"),
        lambda: load_engine(bundle, "chain", precision="fp16"),
    ):
        with pytest.raises(SettingsError, match="precision: expected fp32, .*got fp16") as caught:
            call()
        assert caught.value.hint and "--dtype fp16" in caught.value.hint


def test_unknown_component(bundle: Bundle) -> None:
    for call in (lambda: build(bundle, "unet"), lambda: load_engine(bundle, "unet")):
        with pytest.raises(BundleError, match="no component 'unet'") as caught:
            call()
        assert caught.value.hint == "choose of: linear, chain"


def test_bundle_that_cannot_be_written_to(bundle: Bundle) -> None:
    (bundle.path / "engines").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write .*engines/onnxruntime/linear"):
        build(bundle)
