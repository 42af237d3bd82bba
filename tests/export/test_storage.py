from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from segrefine.export.quantize.graphs import prepare_graph
from segrefine.export.storage import WeightFile, halve_weights

RNG = np.random.default_rng(0)
EXACT = RNG.standard_normal((32, 32)).astype(np.float16).astype(np.float32)
INEXACT = RNG.standard_normal((32, 32)).astype(np.float32)
HUGE = np.full((32, 32), 1e6, np.float32)
INDICES = np.arange(32)[::-1].copy()


def model_with(**weights: NDArray[np.float32]) -> ir.Model:
    """x → x plus each weight, its rows in the order of INDICES."""
    lines = "".join(f"y{i + 1} = Add (y{i}, {name})\n" for i, name in enumerate(weights))
    text = f"""<ir_version: 10, opset_import: ["": 23]>
    graph (float[32, 32] x) => (float[32, 32] y) {{
        y0 = Identity (x)
        {lines}
        y = Gather (y{len(weights)}, indices)
    }}"""
    proto = onnx.parser.parse_model(text)
    initializers: dict[str, NDArray[Any]] = {**weights, "indices": INDICES}
    for name, weight in initializers.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    return ir.from_proto(proto)


def run(path: Path) -> NDArray[np.float32]:
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.zeros((32, 32), np.float32)})[0]


def test_exact_weights_are_halved_and_others_left(tmp_path: Path) -> None:
    model = model_with(exact=EXACT, inexact=INEXACT, huge=HUGE)
    assert halve_weights(model) == EXACT.nbytes // 2
    dtypes = {name: value.const_value.dtype.name for name, value in model.graph.initializers.items()}
    assert dtypes == {"exact.half": "FLOAT16", "inexact": "FLOAT", "huge": "FLOAT", "indices": "INT64"}
    ir.save(model, tmp_path / "halved.onnx")
    ir.save(model_with(exact=EXACT, inexact=INEXACT, huge=HUGE), tmp_path / "whole.onnx")
    assert np.array_equal(run(tmp_path / "halved.onnx"), run(tmp_path / "whole.onnx"))


def test_every_half_precision_value_survives(tmp_path: Path) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].astype(np.float32)[: 32 * 32 * 62].reshape(62, 32, 32)
    model = model_with(**{f"w{i}": each for i, each in enumerate(finite)})
    halve_weights(model)
    assert all(value.name == "indices" or value.name.endswith(".half") for value in model.graph.initializers.values())
    restored = np.stack([model.graph.initializers[f"w{i}.half"].const_value.numpy() for i in range(62)])
    assert np.array_equal(restored.astype(np.float32), finite)


@pytest.mark.parametrize("weights", [{"a": EXACT}, {"a": INEXACT}, {"a": EXACT, "b": INEXACT, "c": HUGE}], ids=len)
def test_a_prepared_graph_needs_no_file_of_the_bundle(weights: dict[str, NDArray[np.float32]], tmp_path: Path) -> None:
    bundle, work = tmp_path / "bundle", tmp_path / "work"
    bundle.mkdir()
    work.mkdir()
    model = model_with(**weights)
    halve_weights(model)  # all of a model that ships, and nearly none of one in float32
    WeightFile(bundle / "model.onnx_data").take(model)
    ir.save(model, bundle / "model.onnx")
    expected = run(bundle / "model.onnx")
    prepared = prepare_graph(bundle / "model.onnx", WeightFile(work / "float.onnx_data"))
    shutil.rmtree(bundle)
    assert np.array_equal(run(prepared.path), expected)


def test_graphs_of_a_folder_share_equal_weights(tmp_path: Path) -> None:
    data = tmp_path / "model.onnx_data"
    store = WeightFile(data)
    for name, weights in {"first": {"a": EXACT, "b": INEXACT}, "second": {"c": INEXACT, "d": HUGE}}.items():
        model = model_with(**weights)
        store.take(model)
        ir.save(model, tmp_path / f"{name}.onnx")
    assert data.stat().st_size == 3 * EXACT.nbytes
    assert np.array_equal(run(tmp_path / "first.onnx"), (EXACT + INEXACT)[INDICES])
    assert np.array_equal(run(tmp_path / "second.onnx"), (INEXACT + HUGE)[INDICES])
    proto = onnx.load(tmp_path / "second.onnx", load_external_data=False)
    places = {e.key: e.value for e in proto.graph.initializer[0].external_data}
    assert places == {"location": "model.onnx_data", "offset": str(EXACT.nbytes), "length": str(EXACT.nbytes)}


def test_a_graph_without_weights_makes_no_file(tmp_path: Path) -> None:
    WeightFile(tmp_path / "model.onnx_data").take(model_with())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("weight", [np.full((32, 32), np.nan, np.float32), np.full((32, 32), 1e-9, np.float32)])
def test_what_half_precision_would_change_is_left(weight: NDArray[np.float32]) -> None:
    assert halve_weights(model_with(weight=weight)) == 0
