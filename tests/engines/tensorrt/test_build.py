"""Engines of TensorRT-RTX, built for real, on a machine without a GPU."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from segrefine.bundle import Bundle
from segrefine.engines import BuildOptions, EngineFile, build_engine
from segrefine.engines.tensorrt.build import tensorrt_recipe
from segrefine.engines.tensorrt.messages import explain_failure
from segrefine.errors import BackendError, EngineError, MissingDependencyError, OutputError, SettingsError, ShapeError
from segrefine.storage import LOCK

ADA = BuildOptions(compute_capabilities=("8.9",))


def build(bundle: Bundle, options: BuildOptions = ADA, *components: str) -> list[EngineFile]:
    return build_engine(bundle, backend="tensorrt-rtx", components=components or None, options=options)


def test_an_engine_lies_beside_what_it_was_made_from(bundle: Bundle) -> None:
    import tensorrt_rtx_bindings

    linear, _ = build(bundle)
    version = tensorrt_rtx_bindings.__version__
    assert linear.path == bundle.path / f"engines/tensorrt-rtx/linear/fp32_batch1-2-32_{version}_sm89.engine"
    sidecar = json.loads(linear.path.with_suffix(".json").read_text())
    expected = {"profile": "batch=1:2:32", "hardware": "sm89", "version": version, "device": "cuda"}
    assert expected.items() <= sidecar.items()
    assert sidecar["files"][linear.path.name]["size"] == linear.path.stat().st_size > 1000


def test_inspect_knows_them(bundle: Bundle) -> None:
    from segrefine.cli.built_engines import list_engines

    linear, chain = build(bundle)
    os.truncate(linear.path, 10)
    states = {engine.component: engine.state for engine in list_engines(bundle)}
    assert states == {"linear": "damaged", "chain": "current"}


def test_what_shapes_an_engine_makes_another_one(bundle: Bundle) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"compute_capabilities": ("12.0", "8.6")},
        {"max_shapes": {"batch": 4}},
        {"optimization_level": 1},
    ]
    built = [build(bundle, BuildOptions(**vars(ADA) | change), "chain")[0] for change in changes]
    assert not any(engine.cached for engine in built)
    assert built[1].path.stem.endswith("_sm86-sm120") and "_batch1-2-4_" in built[2].path.name
    assert built[3].path.name.endswith("_optimization-level-1_sm89.engine")
    assert len({engine.path for engine in built}) == 4
    for change in changes:
        assert build(bundle, BuildOptions(**vars(ADA) | change), "chain")[0].cached


def test_the_rebuild_command_builds_the_same(bundle: Bundle, tmp_path: Path) -> None:
    options = BuildOptions(
        min_shapes={"batch": 2}, max_shapes={"batch": 6}, compute_capabilities=("8.6", "12.0"), workspace=64
    )
    recipe = tensorrt_recipe(bundle, "chain", "tensorrt-rtx", options)
    assert recipe.rebuild_command(bundle) == (
        f"segrefine build-engine {bundle.path} --backend tensorrt-rtx --components chain --min-shapes batch=2 "
        "--opt-shapes batch=2 --max-shapes batch=6 --compute-capability 8.6 --compute-capability 12.0 --workspace 64"
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, BackendError, "no GPU here to build for"),
        ({"compute_capabilities": ("9.0",)}, BackendError, "expected a compute capability of .* got '9.0'"),
        ({"compute_capabilities": ("8.9",), "plugins": "always"}, BackendError, "has no plugins"),
        ({"compute_capabilities": ("8.9",), "max_shapes": {"depth": 3}}, ShapeError, "got 'depth'"),
        ({"compute_capabilities": ("8.9",), "max_shapes": {"tokens": 154}}, ShapeError, "at most 77"),
        (
            {"compute_capabilities": ("8.9",), "min_shapes": {"batch": 5}, "max_shapes": {"batch": 3}},
            ShapeError,
            "5, 3, 3",
        ),
        (
            {"compute_capabilities": ("8.9",), "max_shapes": {"batch": 99999999999999}},
            ShapeError,
            "'sample': expected at most 2,147,483,647 values; got .99999999999999, 32.",
        ),
    ],
)
def test_what_cannot_be_built_for(
    bundle: Bundle, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build(bundle, BuildOptions(**options), "chain")  # type: ignore[arg-type]
    assert not list(bundle.path.glob("engines/**/*.engine"))


@pytest.mark.parametrize(
    "options",
    [
        {"optimization_level": 6},
        {"workspace": 0},
        {"workspace": 99999999999999999},
        {"plugins": "perhaps"},
        {"timing_cache": "x"},
        {"compute_capabilities": "8.9"},
    ],
)
def test_values_out_of_range(options: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=next(iter(options))):
        BuildOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("capability", ["1.20", "8..9", "89", 8.9])
def test_compute_capabilities_are_major_and_minor(capability: object) -> None:
    with pytest.raises(SettingsError, match="such as '8.9'"):
        BuildOptions(compute_capabilities=(capability,))  # type: ignore[arg-type]


def test_sizes_that_were_not_given_make_way(bundle: Bundle) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"max_shapes": {"batch": 1}}, "batch=1"),
        ({"min_shapes": {"batch": 3}}, "batch=3:3:32"),
        ({"opt_shapes": {"batch": 40}}, "batch=1:40:40"),
    ]
    for given, expected in cases:
        options = BuildOptions(compute_capabilities=("8.9",), **given)
        assert tensorrt_recipe(bundle, "chain", "tensorrt-rtx", options).profile == expected


def test_only_a_timing_cache_is_written_over(bundle: Bundle, tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    options = BuildOptions(compute_capabilities=("8.9",), timing_cache=cache)
    for _ in range(2):
        build_engine(bundle, backend="tensorrt-rtx", components=["chain"], options=options, overwrite=True)
    assert cache.stat().st_size
    cache.write_text("precious")
    with pytest.raises(EngineError, match="is no timing cache"):
        build_engine(bundle, backend="tensorrt-rtx", components=["chain"], options=options, overwrite=True)
    assert cache.read_text() == "precious"
    nowhere = BuildOptions(compute_capabilities=("8.9",), timing_cache=tmp_path / "no" / "cache")
    with pytest.raises(OutputError, match="its folder is not there"):
        build_engine(bundle, backend="tensorrt-rtx", components=["chain"], options=nowhere, overwrite=True)


def test_full_tensorrt_is_not_installed_here(bundle: Bundle) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    with pytest.raises(MissingDependencyError, match="the builder of tensorrt is not installed") as refused:
        build_engine(bundle, backend="tensorrt", options=BuildOptions())
    assert "segrefine[tensorrt]" in (refused.value.hint or "")


def written(bundle: Bundle) -> list[Path]:
    """What a build left in the bundle, but for the file that keeps two builds apart."""
    return [path for path in bundle.path.glob("engines/**/*") if path.is_file() and path.name != LOCK]


def test_a_graph_that_the_library_refuses(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    path = bundle.path / "chain/model.onnx"
    model = onnx.load(path)
    model.graph.node[-1].op_type = "NoSuchOperator"
    model.graph.node[-1].domain = "nowhere"
    model.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    onnx.save(model, path)
    monkeypatch.setattr(Bundle, "graph", lambda self, component: path)  # as if it had been exported so
    with pytest.raises(EngineError, match='not built: .*no operator for the node NoSuchOperator -> "out_sample"'):
        build(bundle, ADA, "chain")
    assert not written(bundle)


def test_a_full_disk_leaves_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run

    def limited(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return run(["bash", "-c", 'ulimit -f 1; exec "$@"', "bash", *command], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", limited)
    with pytest.raises((OutputError, EngineError), match="chain"):
        build(bundle, ADA, "chain")
    assert not written(bundle)


def test_of_two_builds_at_once_one_builds(bundle: Bundle) -> None:
    code = (
        "from segrefine.bundle import Bundle; from segrefine.engines import *; import sys\n"
        "options = BuildOptions(compute_capabilities=('8.9',))\n"
        "bundle = Bundle.open(sys.argv[1])\n"
        "[engine] = build_engine(bundle, backend='tensorrt-rtx', components=['chain'], options=options)\n"
        "print(engine.cached)"
    )
    command = [sys.executable, "-c", code, str(bundle.path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(each.communicate()[0].strip() for each in both) == ["False", "True"]
    assert build(bundle, ADA, "chain")[0].cached


def test_a_killed_build_leaves_no_engine_and_no_builder(bundle: Bundle) -> None:
    code = (
        "from segrefine.bundle import Bundle; from segrefine.engines import *; import sys\n"
        "build_engine(Bundle.open(sys.argv[1]), backend='tensorrt-rtx', "
        "options=BuildOptions(compute_capabilities=('8.9',)))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(bundle.path)])
    while not (children := _children(process.pid)):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while any(_is_alive(child) for child in children):
        assert time.monotonic() < deadline, "the builder outlived the process that asked"
        time.sleep(0.1)
    assert not list(bundle.path.glob("engines/*/*/*.json"))
    assert [engine.cached for engine in build(bundle)] == [False, False]
    assert not list(bundle.path.glob("engines/*/*/.*partial*"))


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.parametrize(
    ("output", "status", "message", "hint"),
    [
        (
            "[E] 2: [x.cpp::1] Error Code 2: OutOfMemory (Requested size was 8589934592)",
            1,
            "memory",
            "--workspace",
        ),
        ("[E] Could not find any implementation for node {ForeignNode[a...b]}", 1, "memory", "--optimization-level"),
        (
            "[E] IBuilder: kMIN dimensions in profile 0 are [1,4], not [2,4]",
            1,
            "kMIN dimensions",
            "--min-shapes",
        ),
        ("", -9, "signal 9", "memory"),
        ("[E] something new", 1, "something new", "-v"),
        ("failed: odd", 1, "odd", "-v"),
    ],
)
def test_messages_say_what_to_do(output: str, status: int, message: str, hint: str) -> None:
    said, advice = explain_failure(output, status)
    assert message in said and hint in advice


GPUS = ("8.6", "8.9", "12.0")
PROFILES = {
    "static": BuildOptions(
        compute_capabilities=GPUS, min_shapes={"batch": 2}, opt_shapes={"batch": 2}, max_shapes={"batch": 2}
    ),
    "dynamic": BuildOptions(
        compute_capabilities=GPUS,
        min_shapes={"height": 8, "width": 8},
        max_shapes={"batch": 4, "height": 32, "width": 32},
    ),
}


@pytest.fixture
def demo(any_demo_bundle: Path, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(any_demo_bundle, tmp_path / "bundle"))


@pytest.mark.parametrize(
    ("any_demo_bundle", "profile"),
    [
        (("demo", "fp32"), "dynamic"),
        (("demo", "fp16"), "static"),
        (("demo-gs", "fp32"), "static"),
        pytest.param(("demo", "fp32"), "static", marks=pytest.mark.slow),
        pytest.param(("demo", "fp16"), "dynamic", marks=pytest.mark.slow),
        pytest.param(("demo-gs", "fp32"), "dynamic", marks=pytest.mark.slow),
        pytest.param(("demo-gs", "fp16"), "static", marks=pytest.mark.slow),
        pytest.param(("demo-gs", "fp16"), "dynamic", marks=pytest.mark.slow),
    ],
    indirect=["any_demo_bundle"],
)
def test_every_component_of_the_demo_models_builds(demo: Bundle, profile: str) -> None:
    built = build(demo, PROFILES[profile])
    assert [engine.component for engine in built] == list(demo.manifest.graphs)
    for engine in built:
        assert engine.path.name.startswith(demo.manifest.dtype) and engine.path.stem.endswith("_sm86-sm89-sm120")
        assert engine.path.stat().st_size > 100_000
