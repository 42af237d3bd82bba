"""A real bundle of two small graphs, for the tests of whatever reads bundles or runs engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from segrefine.bundle import Bundle, BundleWriter, Manifest
from segrefine.spec import ComponentSpec, TensorSpec

CHANNELS = 32
WEIGHT: NDArray[np.float32] = np.random.default_rng(0).normal(size=(CHANNELS, CHANNELS)).astype(np.float32)

LINEAR = ComponentSpec(
    "linear",
    (TensorSpec("sample", "float32", ("batch", CHANNELS)), TensorSpec("timestep", "int64", ("batch",))),
    (TensorSpec("out_sample", "float32", ("batch", CHANNELS)),),
)
CHAIN = ComponentSpec(
    "chain",
    (TensorSpec("sample", "float32", ("batch", CHANNELS)),),
    (TensorSpec("out_sample", "float32", ("batch", CHANNELS)),),
)
_ONNX_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


def linear(sample: NDArray[np.float32], timestep: NDArray[np.int64]) -> NDArray[np.float32]:
    """What the component `linear` computes."""
    return sample @ WEIGHT + timestep[:, None].astype(np.float32)


def chain(sample: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the component `chain` computes."""
    return np.maximum(sample @ WEIGHT @ WEIGHT, 0) * 2


def linear_graph() -> onnx.ModelProto:
    """The graph of `linear`."""
    nodes = [
        helper.make_node("MatMul", ["sample", "weight"], ["product"]),
        helper.make_node("Cast", ["timestep"], ["shift"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["shift", "axis"], ["column"]),
        helper.make_node("Add", ["product", "column"], ["out_sample"]),
    ]
    return _model(LINEAR, nodes, {"weight": WEIGHT, "axis": np.array([1], np.int64)})


def chain_graph() -> onnx.ModelProto:
    """The graph of `chain`, with something in it for an optimiser to fold."""
    nodes = [
        helper.make_node("MatMul", ["weight", "weight"], ["squared"]),
        helper.make_node("MatMul", ["sample", "squared"], ["product"]),
        helper.make_node("Relu", ["product"], ["positive"]),
        helper.make_node("Mul", ["positive", "two"], ["out_sample"]),
    ]
    return _model(CHAIN, nodes, {"weight": WEIGHT, "two": np.array(2, np.float32)})


def manifest() -> Manifest:
    """The manifest of the bundle, without its files."""
    return Manifest(
        method="g4seg",
        sample_size=16,
        latent_channels=CHANNELS,
        vae_scale_factor=4,
        scaling_factor=0.18215,
        prediction_type="v_prediction",
        tokens=77,
        dtype="fp32",
        opset=23,
        feature_taps=("up_blocks.0", "up_blocks.1"),
        graphs={"linear": "linear/model.onnx", "chain": "chain/model.onnx"},
        components={"linear": LINEAR, "chain": CHAIN},
        ops=("ai.segrefine::PixelHausdorff",),
        label_codec={},
        settings={"rounds": 2},
        versions={"segrefine": "0.1.0"},
    )


def write_files(folder: Path) -> None:
    """Writes the bundle's files, `linear` with external data."""
    for name in ("linear", "chain", "scheduler"):
        (folder / name).mkdir()
    (folder / "scheduler/scheduler_config.json").write_text('{"num_train_timesteps": 1000}')
    onnx.save(chain_graph(), folder / "chain/model.onnx")
    onnx.save(
        linear_graph(),
        folder / "linear/model.onnx",
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=1024,
    )


def write_bundle(path: Path, *, overwrite: bool = False) -> Bundle:
    """The bundle, written to `path`."""
    with BundleWriter(path, overwrite=overwrite) as writer:
        write_files(writer.directory)
        return writer.finish(manifest())


def _model(spec: ComponentSpec, nodes: list[onnx.NodeProto], weights: dict[str, NDArray]) -> onnx.ModelProto:
    inputs, outputs = (
        [helper.make_tensor_value_info(tensor.name, _ONNX_TYPES[tensor.dtype], tensor.shape) for tensor in side]
        for side in (spec.inputs, spec.outputs)
    )
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, spec.name, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model
