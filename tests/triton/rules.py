"""Triton's rules for a model of the Python backend, as its documentation of the model configuration gives them."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from tests.triton.server import FOLDER

DEFINITION = FOLDER / "tritonclient/grpc/model_config_pb2.py"
"""Triton's own definition of a configuration; needs nothing but protobuf."""

_BYTES = {"TYPE_BOOL": 1, "TYPE_UINT8": 1, "TYPE_INT64": 8, "TYPE_FP32": 4}


def parse_config(text: str) -> Any:
    """The configuration as Triton reads it.

    Raises:
        text_format.ParseError: an unknown field, or a value of another type.
    """
    spec = importlib.util.spec_from_file_location("model_config_pb2", DEFINITION)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return text_format.Parse(text, module.ModelConfig())


def broken_rules(model: Path) -> list[str]:
    """What is wrong with the model in a folder of a repository."""
    config = parse_config((model / "config.pbtxt").read_text())
    return [*_of_model(config, model), *_of_tensors(config), *_of_warm_up(config, model)]


def _of_model(config: Any, model: Path) -> Iterator[str]:
    if config.name != model.name:
        yield f"the name {config.name} is not the folder's"
    if config.backend != "python" or config.platform:
        yield "expected the Python backend, and no platform"
    if config.HasField("dynamic_batching") and config.max_batch_size < 1:
        yield "dynamic batching takes a batch of 1 or more"
    if any(not 1 <= size <= config.max_batch_size for size in config.dynamic_batching.preferred_batch_size):
        yield "a preferred batch that is larger than the largest"
    for group in config.instance_group:
        kind = group.Kind.Name(group.kind)
        if group.count < 1 or (kind == "KIND_CPU" and group.gpus) or (kind == "KIND_GPU" and not group.gpus):
            yield "an instance group without a count, or with GPUs that do not fit its kind"
    versions = [each.name for each in model.iterdir() if each.is_dir() and each.name != "warmup"]
    if not versions or any(not each.isdecimal() or each.startswith("0") for each in versions):
        yield f"versions are whole numbers without leading zeros, and there is one: {versions}"
    if any(not (model / each / "model.py").is_file() for each in versions):
        yield "a version without model.py"


def _of_tensors(config: Any) -> Iterator[str]:
    for side in (config.input, config.output):
        if not side or len({each.name for each in side}) < len(side):
            yield "no tensor, or two of one name"
        for each in side:
            if not each.data_type or not each.dims or any(size != -1 and size < 1 for size in each.dims):
                yield f"{each.name}: expected a data type, and dims of -1, or 1 or more"


def _of_warm_up(config: Any, model: Path) -> Iterator[str]:
    inputs = {each.name: each for each in config.input}
    needed = {name for name, each in inputs.items() if not each.optional}
    for sample in config.model_warmup:
        if not 1 <= sample.batch_size <= max(1, config.max_batch_size):
            yield "a warm-up with another batch than the model takes"
        if not needed <= set(sample.inputs) <= set(inputs):
            yield "a warm-up with an input too few or too many"
            continue
        for name, given in sample.inputs.items():
            taken = inputs[name]
            pairs = list(zip(given.dims, taken.dims, strict=False))
            fits = len(given.dims) == len(taken.dims) and all(n >= 1 and m in (-1, n) for n, m in pairs)
            if given.data_type != taken.data_type or not fits:
                yield f"warm-up of {name}: another type or size than the input's"
            yield from _of_data(name, given, model / "warmup")


def _of_data(name: str, given: Any, folder: Path) -> Iterator[str]:
    kind = type(given).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[given.data_type].name
    if not given.input_data_file:
        if kind == "TYPE_STRING":
            yield f"warm-up of {name}: zeros are no text"
        return
    file = folder / given.input_data_file
    if not file.is_file() or (kind in _BYTES and file.stat().st_size < math.prod(given.dims) * _BYTES[kind]):
        yield f"warm-up of {name}: no file, or too short a one"
