"""A graph in two stages: the first gives the output that is needed alone at times, the second goes on from there.

Both are compiled once, and weights are held once, whichever outputs are asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

_PREFIX = "segrefine_stage_"


def find_early_output(model: Any, outputs: Collection[str]) -> str | None:
    """Find the output that needs less of the graph than the other one; None where there are no two outputs.

    Args:
        model: an `openvino.Model`.
        outputs: the names of its outputs; each may have others besides.
    """
    results = model.get_results()
    if len(results) != 2:
        return None
    early = min(results, key=lambda result: len(_ancestors(result)))
    return next(name for name in outputs if name in early.output(0).names)


def cut_stages(model: Any, early: str) -> list[Any]:
    """The two stages of a graph, which give the same results.

    What the second stage takes from the first one has the same name on both sides. Constants are part of both.

    Args:
        model: an `openvino.Model` whose shapes are all fixed; not to be used afterwards.
        early: name of the output that the first stage gives.
    """
    import openvino
    from openvino import opset13 as ops

    _write_shapes(model)
    first, last = sorted(model.get_results(), key=lambda result: early not in result.output(0).names)
    done = _ancestors(first)
    inputs = {node.get_name(): node for node in model.get_parameters()}
    given, taken = [first], [node for name, node in inputs.items() if name not in done]
    for number, source in enumerate(_find_links(model, last, done)):
        if source.get_node().get_name() in inputs:
            taken.append(source.get_node())
            continue
        link = ops.parameter(source.get_partial_shape(), source.get_element_type())
        for target in source.get_target_inputs():
            if target.get_node().get_name() not in done:
                target.replace_source_output(link.output(0))
        given.append(ops.result(source))
        taken.append(link)
        for port in (given[-1], link):
            port.output(0).set_names({f"{_PREFIX}{number}"})
    early_inputs = [node for name, node in inputs.items() if name in done]
    return [openvino.Model(given, early_inputs), openvino.Model([last], taken)]


def connect_stages(first: Sequence[Any], second: Sequence[Any]) -> None:
    """Let requests of the second stage read what those of the first one write."""
    for before, after in zip(first, second, strict=True):
        for port in after.model_inputs:
            if port.any_name.startswith(_PREFIX):
                after.set_tensor(port.any_name, before.get_tensor(port.any_name))


def _find_links(model: Any, last: Any, done: Collection[str]) -> list[Any]:
    """Find what the second stage takes from the first one or from its inputs: outputs of nodes, each once."""
    needed, constant = _ancestors(last), _constants(model)
    links = {}
    for node in model.get_ordered_ops():
        if node.get_name() in needed and node.get_name() not in done:
            for source in (node.input_value(place) for place in range(node.get_input_size())):
                name = source.get_node().get_name()
                if name in done and name not in constant:
                    links[name, source.get_index()] = source
    return list(links.values())


def _write_shapes(model: Any) -> None:
    """Write sizes as constants: a second stage that had to take them as inputs would have free shapes."""
    from openvino import opset13 as ops

    for node in model.get_ordered_ops():
        if node.get_type_name() == "ShapeOf":
            shape = ops.constant(np.array(list(node.input_value(0).get_shape())), node.get_output_element_type(0))
            node.output(0).replace(shape.output(0))


def _ancestors(result: Any) -> set[str]:
    """The names of all nodes that an output needs, itself among them."""
    found, waiting = set[str](), [result]
    while waiting:
        node = waiting.pop()
        if node.get_name() not in found:
            found.add(node.get_name())
            waiting += [node.input_value(place).get_node() for place in range(node.get_input_size())]
    return found


def _constants(model: Any) -> set[str]:
    """The names of nodes that no input changes."""
    found = set[str]()
    for node in model.get_ordered_ops():
        sources = [node.input_value(place).get_node().get_name() for place in range(node.get_input_size())]
        if node.get_type_name() == "Constant" or (sources and found.issuperset(sources)):
            found.add(node.get_name())
    return found
