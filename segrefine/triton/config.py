"""A model's configuration for Triton: `config.pbtxt`, and the tensors of its warm-up."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segrefine.bundle import Manifest
from segrefine.engines import DEFAULT, EnginePrecision, needs_gpu
from segrefine.errors import SettingsError
from segrefine.signature import SIGNATURES, Signature, Tensor

_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)
_WARM_UP_TEXT = "fox"


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Options for serving a model by Triton.

    Attributes:
        name: of the model, by which clients choose it.
        version: of the model; by default Triton serves the highest that is there.
        backend: what runs the graphs.
        device: `cpu`, or `cuda:N`.
        precision: what they compute in; None for their own.
        threads: of the CPU, for each instance; None for all cores.
        instances: processes that compute side by side.
        batch: rows that are computed together, at most.
        delay: milliseconds that a request may wait for others to be computed with.
        queue: requests that may wait; the next is refused.
        zero_shot: whether a text-to-image model finds phrases and refines their masks, in place of given masks.
    """

    name: str
    version: int = 1
    backend: str = DEFAULT.name
    device: str = "cpu"
    precision: EnginePrecision | None = None
    threads: int | None = None
    instances: int = 1
    batch: int = 8
    delay: float = 0.0
    queue: int = 16
    zero_shot: bool = False

    def __post_init__(self) -> None:
        """Raises SettingsError where a value is outside its range."""
        if not _NAME.fullmatch(self.name):
            hint = "choose a --name of letters, digits, '_', '-' and '.'"
            raise SettingsError(expected="a model name that can name a folder", got=repr(self.name), hint=hint)
        if min(self.version, self.instances, self.batch, self.queue) < 1 or not 0 <= self.delay < math.inf:
            raise SettingsError(
                expected="a version, instances, a batch and a queue of 1 or more, and a delay of 0 or more"
            )
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise SettingsError(expected="the device cpu, cuda or cuda:N", got=repr(self.device), hint="see --device")

    @property
    def on_gpu(self) -> bool:
        """Return whether instances are placed on a GPU."""
        return needs_gpu(self.backend, self.device)


class Word(str):
    """A value that is written without quotes: one of an enumeration."""


def signature_of(manifest: Manifest, zero_shot: bool) -> Signature:
    """The tensors of a bundle's model: phrases, or masks with labels."""
    return SIGNATURES["gs" if zero_shot else manifest.method]


def write_config(manifest: Manifest, serving: Serving) -> str:
    """The text of `config.pbtxt` for a bundle's model (ModelConfig of Triton's model_config.proto)."""
    signature = signature_of(manifest, serving.zero_shot)
    group: dict[str, Any] = {"count": serving.instances, "kind": Word("KIND_GPU" if serving.on_gpu else "KIND_CPU")}
    if serving.on_gpu:
        group["gpus"] = [int(serving.device.partition(":")[2] or 0)]
    options = {"backend": serving.backend, "precision": serving.precision, "threads": serving.threads,
               "zero_shot": "true" if serving.zero_shot else None}  # fmt: skip
    config = {
        "name": serving.name,
        "backend": "python",
        "max_batch_size": serving.batch,
        "input": [_describe(each) for each in signature.inputs],
        "output": [_describe(each) for each in signature.outputs],
        "instance_group": [group],
        "dynamic_batching": {
            "max_queue_delay_microseconds": round(serving.delay * 1000),
            "default_queue_policy": {"max_queue_size": serving.queue},
        },
        "parameters": [
            {"key": name, "value": {"string_value": str(value)}} for name, value in options.items() if value is not None
        ],
        "model_warmup": [{"name": "square", "batch_size": 1, "inputs": list(_warm_up_inputs(manifest, serving))}],
    }
    return "\n".join(_lines(config, "")) + "\n"


def warm_up_files(manifest: Manifest, serving: Serving) -> dict[str, bytes]:
    """The tensors of the warm-up request that are not zeros, by their files' names: a square, and a word."""
    word = _WARM_UP_TEXT.encode()
    text = struct.pack("<I", len(word)) + word
    if signature_of(manifest, serving.zero_shot) is SIGNATURES["gs"]:
        return {"phrases": text}
    side = _side(manifest)
    mask = np.zeros((side, side), np.float32)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 1
    return {"mask": mask.tobytes(), "label": text}


def _warm_up_inputs(manifest: Manifest, serving: Serving) -> Iterator[dict[str, Any]]:
    side, files = _side(manifest), warm_up_files(manifest, serving)
    sizes = {"image": (side, side, 3), "mask": (1, side, side)}
    for tensor in signature_of(manifest, serving.zero_shot).inputs:
        if tensor.optional and tensor.name not in files:
            continue
        data = {"input_data_file": tensor.name} if tensor.name in files else {"zero_data": True}
        dims = sizes.get(tensor.name, (1,))
        value = {"data_type": Word(f"TYPE_{tensor.data_type}"), "dims": list(dims), **data}
        yield {"key": tensor.name, "value": value}


def _side(manifest: Manifest) -> int:
    return manifest.sample_size * manifest.vae_scale_factor


def _describe(tensor: Tensor) -> dict[str, Any]:
    flags = {"optional": tensor.optional, "allow_ragged_batch": tensor.ragged}
    return {
        "name": tensor.name,
        "data_type": Word(f"TYPE_{tensor.data_type}"),
        "dims": list(tensor.dims),
        **{name: True for name, value in flags.items() if value},
    }


def _lines(message: Mapping[str, Any], indent: str) -> Iterator[str]:
    """A message in protobuf's text format; a list of messages is the field, repeated."""
    for name, value in message.items():
        for each in value if _is_repeated(value) else [value]:
            if isinstance(each, Mapping):
                yield f"{indent}{name} {{"
                yield from _lines(each, indent + "  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{name}: {each if isinstance(each, Word) else json.dumps(each)}"


def _is_repeated(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and isinstance(next(iter(value), None), Mapping)
