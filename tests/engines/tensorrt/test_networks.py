"""What TensorRT's parser makes of the graphs: precision of each layer, attention as one layer, no stray casts.

Strong typing makes the parsed network decisive: a kernel computes in the type of the tensors that its layer takes.
TensorRT-RTX parses on any machine. Full TensorRT has the same parser, but its library is not to be had everywhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest

from segrefine.bundle import Bundle

pytest.importorskip("tensorrt_rtx_bindings")

WALK = """
import json, sys
from segrefine.engines.tensorrt.builder import parse_graph
from segrefine.engines.tensorrt.libraries import import_library

library = import_library("tensorrt-rtx")
answers = []
for graph in sys.argv[1:]:
    builder, network, parser = parse_graph(library, graph)
    layers, constants = [], set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
        outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
        stored = layer.type.name == "CONSTANT" or all(each is not None and each.name in constants for each in inputs)
        if stored and (inputs or layer.type.name == "CONSTANT"):
            constants.update(each.name for each in outputs)  # the builder folds what only weights go into
        layers.append({
            "folded": stored,
            "type": layer.type.name,
            "name": layer.name,
            "inputs": [each.dtype.name for each in inputs if each is not None],
            "outputs": [each.dtype.name for each in outputs if each is not None],
        })
    answers.append(layers)
print(json.dumps(answers))
"""
HEAVY = ("MATRIX_MULTIPLY", "CONVOLUTION", "DECONVOLUTION", "ATTENTION_INPUT")
DENOISERS = ("unet", "unet_features", "label_denoiser")


def walk(bundle: Bundle) -> dict[str, list[dict[str, Any]]]:
    """The layers of every parsed component; in one process, for the library takes seconds to load."""
    names = list(bundle.manifest.graphs)
    environment = os.environ | {"POLYGRAPHY_USE_TENSORRT_RTX": "1"}
    command = [sys.executable, "-c", WALK, *(str(bundle.graph(name)) for name in names)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(names, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.fixture(scope="module")
def parsed(any_demo_bundle: Path) -> tuple[Bundle, dict[str, list[dict[str, Any]]]]:
    bundle = Bundle.open(any_demo_bundle)
    return bundle, walk(bundle)


def nodes_of(bundle: Bundle, component: str) -> list[onnx.NodeProto]:
    """The nodes of a graph, those of its functions in the place of the calls."""
    model = onnx.load(bundle.graph(component), load_external_data=False)
    functions = {(each.domain, each.name): each for each in model.functions}

    def unfold(nodes: Any) -> Any:
        for node in nodes:
            function = functions.get((node.domain, node.op_type))
            yield from unfold(function.node) if function else [node]

    return list(unfold(model.graph.node))


def test_denoisers_compute_in_the_precision_of_the_bundle(
    parsed: tuple[Bundle, dict[str, list[dict[str, Any]]]],
) -> None:
    bundle, networks = parsed
    expected = {"fp32": "FLOAT", "fp16": "HALF"}[bundle.manifest.dtype]
    seen = 0
    for component in set(DENOISERS) & networks.keys():
        for layer in networks[component]:
            if layer["type"] in HEAVY:
                kinds = {each for each in layer["inputs"] if each in ("FLOAT", "HALF", "BF16")}
                assert kinds == {expected}, (component, layer)
                seen += 1
    assert seen > 100


def test_other_graphs_compute_in_half_only_where_it_does_not_overflow(
    parsed: tuple[Bundle, dict[str, list[dict[str, Any]]]],
) -> None:
    bundle, networks = parsed
    for component, layers in networks.items():
        kinds = Counter(
            kind for layer in layers if layer["type"] in HEAVY for kind in layer["inputs"] if kind in ("FLOAT", "HALF")
        )
        if bundle.manifest.dtype == "fp32" or component.startswith("vae") or component == "alignment":
            assert not kinds["HALF"], (component, kinds)


def test_attention_is_one_layer_each(parsed: tuple[Bundle, dict[str, list[dict[str, Any]]]]) -> None:
    bundle, networks = parsed
    for component, layers in networks.items():
        declared = sum(node.op_type == "Attention" for node in nodes_of(bundle, component))
        found = Counter(layer["type"] for layer in layers)
        assert found["ATTENTION_INPUT"] == found["ATTENTION_OUTPUT"] == declared, component
    if "unet" in networks:
        assert Counter(layer["type"] for layer in networks["unet"])["ATTENTION_INPUT"] > 0


def test_the_parser_adds_no_casts(parsed: tuple[Bundle, dict[str, list[dict[str, Any]]]]) -> None:
    """Between half and single precision: each is a pass over memory in every step. Casts of weights are folded."""
    bundle, networks = parsed
    for component, layers in networks.items():
        declared = sum(node.op_type in ("Cast", "CastLike") for node in nodes_of(bundle, component))
        casts = [
            layer
            for layer in layers
            if layer["type"] == "CAST"
            and {*layer["inputs"], *layer["outputs"]} == {"FLOAT", "HALF"}
            and not layer["folded"]
        ]
        assert len(casts) <= declared, (component, len(casts), declared)
        if bundle.manifest.dtype == "fp32":
            assert not casts, component
