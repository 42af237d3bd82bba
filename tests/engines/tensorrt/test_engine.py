"""TensorRT engines run without torch, on a stand-in for GPU and library; and refused where they do not fit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segrefine.assets import demo_bundle, demo_gs_bundle, demo_samples
from segrefine.bundle import Bundle
from segrefine.cli.samples import load_samples
from segrefine.engines import BuildOptions, load, load_engine, peak_memory
from segrefine.engines import cuda as cuda_module
from segrefine.engines.recipe import read_recipe
from segrefine.engines.tensorrt import buffers, libraries
from segrefine.engines.tensorrt.build import _workspace
from segrefine.engines.tensorrt.engine import TensorRtEngine
from segrefine.engines.tensorrt.recipe import TensorRtRecipe
from segrefine.engines.tensorrt.runtime import EnginePlan
from segrefine.errors import BackendError, EngineError, EngineWarning, ShapeError
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.segmenter import Segmenter
from tests.engines.cuda_stand_in import Cuda
from tests.engines.tensorrt.runtime_stand_in import TensorRt, build
from tests.tiny_bundle import CHANNELS, chain, linear

LIBRARIES = ("tensorrt", "tensorrt-rtx")
SAMPLE = np.random.default_rng(1).normal(size=(3, CHANNELS)).astype(np.float32)
FEEDS: dict[str, NDArray[Any]] = {"sample": SAMPLE, "timestep": np.arange(3)}


@pytest.mark.parametrize("library", LIBRARIES)
def test_engine_computes_what_the_graph_does(gpu: Cuda, bundle: Bundle, library: str) -> None:
    build(bundle, "linear", library)
    with load_engine(bundle, "linear", library) as engine:
        rows = [engine({name: values[:n] for name, values in FEEDS.items()}, only="out_sample") for n in (2, 3, 1)]
    for n, row in zip((2, 3, 1), rows, strict=True):
        np.testing.assert_allclose(row["out_sample"], linear(SAMPLE, FEEDS["timestep"])[:n], atol=1e-4)
    assert not gpu.pinned and len(gpu.device) == 1, "buffers are left, beside the memory that engines share"
    with pytest.raises(EngineError, match="is closed"):
        engine(FEEDS)


@pytest.mark.parametrize("library", LIBRARIES)
def test_pipelines_give_the_same(gpu: Cuda, tmp_path: Path, library: str) -> None:
    scene = next(iter(load_samples(demo_samples()).values()))
    for kind, folder, ask in (
        (
            Refiner,
            demo_bundle(),
            lambda pipeline: (
                pipeline(scene.image, scene.coarse, scene.label, settings={"worth_range": []}).rounds[-1].probability
            ),
        ),
        (Segmenter, demo_gs_bundle(), lambda pipeline: pipeline(scene.image, [scene.label]).segments[0].probability),
    ):
        bundle = Bundle.open(shutil.copytree(folder, tmp_path / kind.__name__))
        for component in kind.components(bundle):
            build(bundle, component, library, most=16)
        with kind.from_bundle(bundle.path) as on_cpu, kind.from_bundle(bundle.path, backend=library) as on_gpu:
            np.testing.assert_allclose(ask(on_gpu), ask(on_cpu), atol=1e-5)


def test_engines_share_the_memory_for_intermediate_results(gpu: Cuda, bundle: Bundle) -> None:
    for component in ("linear", "chain"):
        build(bundle, component, "tensorrt")
    with load_engine(bundle, "linear", "tensorrt") as one, load_engine(bundle, "chain", "tensorrt") as other:
        for _ in range(2):
            np.testing.assert_allclose(one(FEEDS)["out_sample"], linear(**FEEDS), atol=1e-4)
            np.testing.assert_allclose(other({"sample": SAMPLE})["out_sample"], chain(SAMPLE), rtol=1e-4, atol=1e-3)
    assert [len(memory) for memory in gpu.device.values()] == [4096]
    tensors = 4 * SAMPLE.nbytes + FEEDS["timestep"].nbytes
    assert peak_memory("tensorrt", "cpu") == gpu.weights + 4096 + tensors > 4096 + tensors
    assert peak_memory("onnxruntime", "cpu") is None


def test_what_one_engine_gave_is_not_sent_again_to_the_next(
    gpu: Cuda, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffers, "LEAST_BYTES", 0)
    for component in ("linear", "chain"):
        build(bundle, component, "tensorrt")
    with load_engine(bundle, "linear", "tensorrt") as one, load_engine(bundle, "chain", "tensorrt") as other:
        given = one(FEEDS)["out_sample"]
        one(FEEDS | {"sample": SAMPLE + 1})  # what it gave before stays what it was
        sent = gpu.copied["HostToDevice"]
        result = other({"sample": given})["out_sample"]
        assert gpu.copied["HostToDevice"] == sent
        np.testing.assert_allclose(result, chain(linear(**FEEDS)), rtol=1e-4, atol=1e-2)
        with pytest.raises(ValueError, match="read-only"):
            given[0] = 0
        other({"sample": given.copy()})
        assert gpu.copied["HostToDevice"] == sent + given.nbytes
        held = len(gpu.device)
        del given, result
        one(FEEDS)
        assert len(gpu.device) <= held, "memory of arrays that are gone"


def test_features_stay_on_the_device(gpu: Cuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = next(iter(load_samples(demo_samples()).values()))
    bundle = Bundle.open(shutil.copytree(demo_bundle(), tmp_path / "demo"))
    for component in Refiner.components(bundle):
        build(bundle, component, "tensorrt", most=16)
    sent, masks = [], []
    with Refiner.from_bundle(bundle.path, backend="tensorrt") as refiner:
        for least in (1 << 40, 0):
            monkeypatch.setattr(buffers, "LEAST_BYTES", least)
            gpu.copied.clear()
            masks.append(refiner(scene.image, scene.coarse, scene.label, guard=False).probability)
            sent.append(gpu.copied["HostToDevice"])
    np.testing.assert_array_equal(masks[0], masks[1])
    assert sent[0] - sent[1] == 2 * 256 * 64 * 4  # features of the image and of the generated one: pixels, channels


def test_batch_beyond_the_largest_goes_in_parts(gpu: Cuda, bundle: Bundle) -> None:
    build(bundle, "linear", "tensorrt", most=2)
    with load_engine(bundle, "linear", "tensorrt") as engine:
        np.testing.assert_allclose(engine(FEEDS)["out_sample"], linear(**FEEDS), atol=1e-4)


def test_size_outside_of_the_profile(gpu: Cuda, bundle: Bundle) -> None:
    demo = Bundle.open(shutil.copytree(demo_bundle(), bundle.path.with_name("demo")))
    build(demo, "vae_encoder", "tensorrt", least=2)
    with load_engine(demo, "vae_encoder", "tensorrt") as engine:
        message = (
            r"'sample': expected \(2, 3, 1, 1\) to \(4, 3, 1024, 1024\), which its engine takes; got \(2, 3, 64, 1032\)"
        )
        with pytest.raises(ShapeError, match=message) as caught:
            engine({"sample": np.zeros((2, 3, 64, 1032), np.float32)})
        assert "--min-shapes batch=2" in str(caught.value.hint)


def test_batch_below_the_smallest_is_filled_up(gpu: Cuda, bundle: Bundle) -> None:
    build(bundle, "linear", "tensorrt", least=2, most=2)
    build(bundle, "linear", "tensorrt", least=8, most=8)
    with load_engine(bundle, "linear", "tensorrt") as engine:
        for n in (1, 2, 3):
            feeds = {name: values[:n] for name, values in FEEDS.items()}
            np.testing.assert_allclose(engine(feeds)["out_sample"], linear(**feeds), atol=1e-4)


def test_engine_of_one_size_is_a_graph(gpu: Cuda, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    build(bundle, "linear", "tensorrt", least=3, most=3)
    build(bundle, "chain", "tensorrt")
    with load_engine(bundle, "linear", "tensorrt") as engine:
        for shift in range(3):
            feeds = FEEDS | {"timestep": FEEDS["timestep"] + shift}
            np.testing.assert_allclose(engine(feeds)["out_sample"], linear(**feeds), atol=1e-4)
        assert gpu.launched == 2
        larger = TensorRt(gpu, "tensorrt")
        larger.scratch = 1 << 20  # moves the memory that the captured graph wrote to
        monkeypatch.setattr(libraries, "import_runtime", lambda library: larger)
        with load_engine(bundle, "chain", "tensorrt") as other:
            other({"sample": SAMPLE})
        np.testing.assert_allclose(engine(FEEDS)["out_sample"], linear(**FEEDS), atol=1e-4)
        assert gpu.launched == 2 and len(gpu.graphs) == 1
        engine(FEEDS)
        assert gpu.launched == 3
    assert not gpu.graphs


def test_workspace_is_at_most_what_is_free(gpu: Cuda) -> None:
    gpu.capacity = 100 << 20
    assert _workspace(BuildOptions(workspace=400)) == 100
    assert _workspace(BuildOptions(workspace=40)) == 40
    assert _workspace(BuildOptions(workspace=400, compute_capabilities=("8.9",))) == 400


def test_full_memory(gpu: Cuda, bundle: Bundle) -> None:
    build(bundle, "linear", "tensorrt")
    with load_engine(bundle, "linear", "tensorrt") as engine:
        gpu.capacity = gpu.weights + 4096
        with pytest.raises(EngineError, match="cudaMalloc failed: cudaErrorMemoryAllocation") as caught:
            engine(FEEDS)
        assert "smaller images" in str(caught.value.hint) and not gpu.pinned
        gpu.capacity = 1 << 30
        np.testing.assert_allclose(engine(FEEDS)["out_sample"], linear(**FEEDS), atol=1e-4)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("capacity", [10, 4200])
def test_full_memory_while_loading(gpu: Cuda, bundle: Bundle, library: str, capacity: int) -> None:
    build(bundle, "linear", library)
    gpu.capacity = capacity  # too little for the weights; then for the intermediate results
    with pytest.raises(EngineError, match=r"OutOfMemory|cudaErrorMemoryAllocation") as caught:
        load_engine(bundle, "linear", library)
    assert "close other programs on the GPU" in str(caught.value.hint)
    assert not gpu.device and not gpu.pinned
    gpu.capacity = 1 << 30
    load_engine(bundle, "linear", library).close()


@pytest.mark.parametrize(
    ("changes", "library", "reason"),
    [
        ({"hardware": "sm86"}, "tensorrt", "built for sm86"),
        ({"hardware": "sm86-sm120"}, "tensorrt-rtx", "built for sm86-sm120"),
        ({"version": "1.7.0"}, "tensorrt-rtx", r"built by version 1\.7\.0"),
        ({"version": "11.2.3"}, "tensorrt", r"built by version 11\.2\.3"),
        (
            {"version": "11.5.0", "options": {"version_compatible": True}},
            "tensorrt",
            r"built by version 11\.5\.0, which needs a runtime of that version or a later",
        ),
        ({"version": "10.9.0", "options": {"version_compatible": True}}, "tensorrt", r"built by version 10\.9\.0"),
        ({"graph": {"linear/model.onnx": "0"}}, "tensorrt", "exported again"),
    ],
)
def test_engine_for_something_else(
    gpu: Cuda, bundle: Bundle, changes: dict[str, Any], library: str, reason: str
) -> None:
    build(bundle, "linear", library, **changes)
    with pytest.raises(EngineError, match=reason) as caught:
        load_engine(bundle, "linear", library)
    hint = str(caught.value.hint)
    assert f"segrefine build-engine {bundle.path} --backend {library} --components linear" in hint
    assert "--min-shapes batch=1 --opt-shapes batch=4 --max-shapes batch=4" in hint
    assert hint.endswith(" --version-compatible") == bool(changes.get("options"))
    if library == "tensorrt-rtx":
        assert hint.endswith(
            " --compute-capability 8.6 --compute-capability 12.0 --compute-capability 8.9"
            if "hardware" in changes
            else " --compute-capability 8.6 --compute-capability 8.9"
        )


def test_rebuild_command_has_the_options(gpu: Cuda, bundle: Bundle) -> None:
    path = build(bundle, "linear", "tensorrt", options={"optimization_level": 1, "workspace": 64, "plugins": None})
    path.write_bytes(b"")
    with pytest.raises(EngineError, match="is damaged") as caught:
        load_engine(bundle, "linear", "tensorrt")
    assert str(caught.value.hint).endswith("--max-shapes batch=4 --optimization-level 1 --workspace 64")


@pytest.mark.parametrize("entry", [{"profile": "batch=1; reboot"}, {"hardware": "$(reboot)"}, {"options": ["reboot"]}])
def test_no_command_is_made_of_a_sidecar_of_another_form(gpu: Cuda, bundle: Bundle, entry: dict[str, Any]) -> None:
    sidecar = build(bundle, "linear", "tensorrt").with_suffix(".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | entry))
    with pytest.raises(EngineError, match="its sidecar: ") as caught:
        load_engine(bundle, "linear", "tensorrt")
    assert caught.value.hint == (
        f"build it again: segrefine build-engine {bundle.path} --backend tensorrt --components linear"
    )


def test_damaged_engine_beside_a_whole_one_is_told_of(gpu: Cuda, bundle: Bundle) -> None:
    build(bundle, "linear", "tensorrt", hardware="sm120")  # for another machine: nothing to tell
    build(bundle, "linear", "tensorrt")
    build(bundle, "linear", "tensorrt", most=8).write_bytes(b"")
    with pytest.warns(EngineWarning, match="engine of linear is left out, .*batch1-8-8.* is damaged.*build it again"):
        load_engine(bundle, "linear", "tensorrt").close()


def test_of_two_for_the_same_sizes_the_last_one_built_runs(gpu: Cuda, bundle: Bundle) -> None:
    for number, options in enumerate(({"workspace": 64}, {}, {"workspace": 32})):
        path = build(bundle, "linear", "tensorrt", options=options)
        os.utime(path.with_suffix(".json"), ns=(0, 1000 * (number % 2)))
    assert [options.workspace for options in load.built_options(bundle, "linear", "tensorrt", "cpu")] == [None]


def test_version_compatible_engine_of_an_older_minor_version(gpu: Cuda, bundle: Bundle) -> None:
    path = build(bundle, "linear", "tensorrt", version="11.2.3", options={"version_compatible": True, "tf32": False})
    assert path.stem == "fp32_batch1-4-4_11.2.3_version-compatible_sm89"
    load_engine(bundle, "linear", "tensorrt").close()


def test_lean_runtime_runs_version_compatible_engines_only(
    gpu: Cuda, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    lean = TensorRt(gpu, "tensorrt")
    lean.__name__ = "tensorrt_lean"
    monkeypatch.setattr(libraries, "import_runtime", lambda library: lean)
    build(bundle, "linear", "tensorrt")
    with pytest.raises(EngineError, match="without --version-compatible, which TensorRT's lean runtime needs"):
        load_engine(bundle, "linear", "tensorrt")
    build(bundle, "linear", "tensorrt", options={"version_compatible": True})
    with load_engine(bundle, "linear", "tensorrt") as engine:
        np.testing.assert_allclose(engine(FEEDS)["out_sample"], linear(**FEEDS), atol=1e-4)


def test_among_several_the_one_that_fits_is_taken(gpu: Cuda, bundle: Bundle) -> None:
    build(bundle, "linear", "tensorrt", hardware="sm120")
    build(bundle, "linear", "tensorrt")
    load_engine(bundle, "linear", "tensorrt").close()


def test_each_size_goes_to_the_narrowest_engine(gpu: Cuda, bundle: Bundle) -> None:
    build(bundle, "linear", "tensorrt", most=8)
    build(bundle, "linear", "tensorrt", least=3, most=3)
    with load_engine(bundle, "linear", "tensorrt") as engine:
        for _ in range(3):
            np.testing.assert_allclose(engine(FEEDS)["out_sample"], linear(**FEEDS), atol=1e-4)
        assert gpu.launched == 2, "the engine of one size, which is a graph, did not run"
        fewer = {name: values[:2] for name, values in FEEDS.items()}
        np.testing.assert_allclose(engine(fewer)["out_sample"], linear(*fewer.values()), atol=1e-4)
        assert gpu.launched == 2


def test_no_engine(gpu: Cuda, bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="TensorRT only runs engines you have built") as caught:
        load_engine(bundle, "linear", "tensorrt-rtx")
    assert "build-engine" in str(caught.value.hint)


def test_altered_files(gpu: Cuda, bundle: Bundle) -> None:
    path = build(bundle, "linear", "tensorrt")
    sidecar, whole = path.with_suffix(".json"), path.read_bytes()
    path.write_bytes(whole[:-1] + b" ")
    with pytest.raises(EngineError, match="was altered"):
        load_engine(bundle, "linear", "tensorrt")
    path.write_bytes(whole)
    for content, reason in (
        (sidecar.read_text().replace("batch=1:4:4", "batch=1:9:9"), "its sidecar was altered"),
        ("{}", "its sidecar: expected an entry"),
        (json.dumps(json.loads(sidecar.read_text()) | {"files": {}}), "the list of its files was altered"),
        (json.dumps(json.loads(sidecar.read_text()) | {"files": {"../x": {}}}), "the list of its files was altered"),
        ("[", "json: it cannot be read as JSON"),
    ):
        sidecar.write_text(content)
        with pytest.raises(EngineError, match=reason):
            load_engine(bundle, "linear", "tensorrt")


def test_engine_that_the_library_refuses(gpu: Cuda, bundle: Bundle, tmp_path: Path) -> None:
    path, spec = build(bundle, "linear", "tensorrt"), bundle.manifest.components["linear"]
    recipe = read_recipe(json.loads(path.with_suffix(".json").read_text()), TensorRtRecipe)
    command = "segrefine build-engine x"
    plan = EnginePlan(path=tmp_path / "no.engine", spec=spec, recipe=recipe, rebuild=command, machine="sm89")
    plan.path.write_bytes(b"no engine")
    with pytest.raises(EngineError, match="does not load in tensorrt: Magic tag does not match") as caught:
        TensorRtEngine(plan, 0)
    assert caught.value.hint == "build it again: segrefine build-engine x"
    other = replace(plan, path=path, spec=bundle.manifest.components["chain"])
    with pytest.raises(EngineError, match=r"inputs of chain: expected \{.*\}[;,] got \{.*timestep.*\}"):
        TensorRtEngine(other, 0)


@pytest.mark.parametrize("library", LIBRARIES)
def test_without_cuda_there_is_an_error_and_no_crash(bundle: Bundle, library: str) -> None:
    """The real libraries, in a process of their own; full TensorRT's crash when they are asked without CUDA."""
    status, _ = cuda_module.import_cuda().cudaGetDeviceCount()
    if status == cuda_module.import_cuda().cudaError_t.cudaSuccess:
        pytest.skip("there is a GPU here")
    build(bundle, "linear", library)
    code = f"""
from segrefine.bundle import Bundle
from segrefine.engines import load_engine
from segrefine.errors import BackendError
try:
    load_engine(Bundle.open({str(bundle.path)!r}), "linear", {library!r})
except BackendError as error:
    print("refused:", error, "|", error.hint)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "refused: the NVIDIA driver is missing" in done.stdout or "refused: CUDA does not answer" in done.stdout


def test_no_such_device(gpu: Cuda, bundle: Bundle) -> None:
    build(bundle, "linear", "tensorrt")
    with pytest.raises(BackendError, match="there is no CUDA device 3, there are 1"):
        load_engine(bundle, "linear", "tensorrt", device="cuda:3")


def test_old_driver(gpu: Cuda, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    build(bundle, "linear", "tensorrt")
    error = gpu.cudaError_t.cudaErrorInsufficientDriver
    monkeypatch.setattr(gpu, "cudaGetDeviceCount", lambda: (error, 0))
    monkeypatch.setattr(gpu, "cudaDriverGetVersion", lambda: (gpu.cudaError_t.cudaSuccess, 12040))
    with pytest.raises(BackendError, match=r"driver is too old: .* CUDA 13\.0.* got one for CUDA 12\.4"):
        load_engine(bundle, "linear", "tensorrt")
