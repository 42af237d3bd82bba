"""Full TensorRT's own bindings, over stub libraries: signatures, plugin registration, the builder up to its network."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from tests.engines.full_bindings import build_stubs, run_with_full_bindings
from tests.engines.real_parts import import_bindings, parse_overloads
from tests.tiny_bundle import write_bundle

CLASSES = ("Runtime", "ICudaEngine", "IExecutionContext")


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_stubs(tmp_path_factory.mktemp("stubs"))


def describe(module: Any) -> dict[str, Any]:
    """The methods and properties of the classes that run engines, with their parameters."""
    found: dict[str, Any] = {}
    for name in CLASSES:
        real = getattr(module, name)
        for member in (each for each in dir(real) if not each.startswith("_")):
            value = inspect.getattr_static(real, member)
            overloads = [
                [(p.name, p.kind.rpartition(".")[2], p.required) for p in parameters]
                for parameters in parse_overloads(getattr(value, "__doc__", None) or "", member)
            ]
            found[f"{name}.{member}"] = "property" if isinstance(value, property) else overloads
    return found


def test_the_lean_runtime_has_the_signatures_of_the_full_one(stubs: Path) -> None:
    """So that stand-ins which are held to the lean classes hold for the full ones too."""
    code = """
import json, tensorrt_bindings
from tests.engines.tensorrt.test_full_bindings import describe
print(json.dumps(describe(tensorrt_bindings)))
"""
    full = json.loads(run_with_full_bindings(stubs, code).splitlines()[-1])
    lean = json.loads(json.dumps(describe(import_bindings("tensorrt"))))
    used = {
        *(
            "Runtime.deserialize_cuda_engine",
            "Runtime.engine_host_code_allowed",
            "ICudaEngine.get_tensor_profile_shape",
        ),
        *("ICudaEngine.create_execution_context", "ICudaEngine.device_memory_size_v2", "ICudaEngine.num_io_tensors"),
        *("ICudaEngine.get_tensor_name", "ICudaEngine.get_tensor_mode", "ICudaEngine.get_tensor_dtype"),
        *("IExecutionContext.set_input_shape", "IExecutionContext.set_tensor_address"),
        *("IExecutionContext.get_tensor_shape", "IExecutionContext.execute_async_v3"),
        "IExecutionContext.set_device_memory",
    }
    assert used <= full.keys()
    assert {name: full[name] for name in used} == {name: lean[name] for name in used}


@pytest.mark.parametrize("before", ["", "import tensorrt_bindings"])
def test_both_plugins_register(stubs: Path, before: str) -> None:
    code = f"""
{before}
from segrefine.engines.tensorrt.plugins.registration import register_plugins
from segrefine.engines.tensorrt.libraries import import_library
library = import_library("tensorrt")
register_plugins(library)
for each in library.get_plugin_registry().all_creators:
    if each.plugin_namespace == "segrefine":
        print("creator", each.name, each.plugin_version, type(each).__name__)
"""
    lines = [line for line in run_with_full_bindings(stubs, code).splitlines() if line.startswith("creator")]
    assert sorted(line.split()[1:3] for line in lines) == [["MaskedAttention", "1"], ["PixelHausdorff", "1"]]


BUILDER = """
import json, sys
from dataclasses import replace
from types import SimpleNamespace
from segrefine.engines.tensorrt import builder
from segrefine.engines.tensorrt.job import BuildJob
from segrefine.engines.tensorrt.libraries import import_library
from tests.engines.real_parts import StandIn

library = import_library("tensorrt")
said = {"changes": []}

class Config:
    profiles, cleared = [], []
    def __getattr__(self, name):
        if name in ("set_flag", "clear_flag", "set_memory_pool_limit", "set_preview_feature", "set_tactic_sources"):
            return lambda *given: said["changes"].append([name, *map(str, given)])
        if name == "add_optimization_profile":
            return lambda profile: 0
        raise AttributeError(name)

class Builder:
    def __init__(self, logger):
        assert isinstance(logger, library.ILogger)
    def create_network(self, flags=0):
        said["flags"] = int(flags)
        raise Stop
    def create_optimization_profile(self):
        return StandIn(library.IOptimizationProfile, library, SimpleNamespace())
    def create_builder_config(self):
        return StandIn(library.IBuilderConfig, library, Config())

class Network(list):
    num_inputs = num_layers = 0

class Stop(Exception):
    pass

library.Builder = Builder
try:
    builder.parse_graph(library, sys.argv[1])
except Stop:
    pass
job = BuildJob(library="tensorrt", graph="", engine="", shapes={}, workspace=64, optimization_level=3)
for tf32, compatible in ((False, False), (True, True)):
    make = builder._configure(library, replace(job, tf32=tf32, version_compatible=compatible))
    make(Builder(library.Logger()), Network())
    said["changes"].append(["done"])
said["strong"] = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
print(json.dumps(said))
"""


def test_the_builder_up_to_its_network(stubs: Path, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    code = f"import sys; sys.argv = ['', {str(bundle.graph('linear'))!r}]\n{BUILDER}"
    said = json.loads(run_with_full_bindings(stubs, code).splitlines()[-1])
    assert said["flags"] & said["strong"], "without strong typing TensorRT 10 computes half-precision graphs in float32"
    exact, other = "\n".join(map(" ".join, said["changes"])).split("done")[:2]
    assert "clear_flag BuilderFlag.TF32" in exact and "VERSION_COMPATIBLE" not in exact
    last = [line for line in other.splitlines() if "TF32" in line][-1]
    assert last == "set_flag BuilderFlag.TF32" and "set_flag BuilderFlag.VERSION_COMPATIBLE" in other
    assert "set_memory_pool_limit MemoryPoolType.WORKSPACE 67108864" in exact
