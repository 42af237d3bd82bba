"""The KServe v2 protocol, which clients of Triton speak: models are described, and asked by tensors.

Tensors become the files and fields of a request to /v1, so that both are read, checked and computed by the same code.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray

from segrefine import __version__
from segrefine.serve.body import Form
from segrefine.serve.encode import png
from segrefine.serve.inputs import Pictures, read_inputs
from segrefine.serve.limits import Limits
from segrefine.serve.models import PhraseModel, ServedModel
from segrefine.serve.parameters import Parameters, RefineParameters, SegmentParameters
from segrefine.serve.problem import Problem
from segrefine.serve.reply import PiecewiseReply, Replier
from segrefine.serve.tensors import LENGTH_HEADER, InferRequest, datatype_of, read_request, write_answer
from segrefine.signature import SIGNATURES, Signature, Tensor

VERSION = "1"
_ONE = "one image in a request: the first axis of every tensor is 1"


def add_kserve(app: FastAPI, models: Mapping[str, ServedModel[Any]]) -> None:
    """Add the routes below /v2, but those of health."""

    @app.get("/v2", summary="The server, as KServe v2 describes it", tags=["KServe v2"])
    async def server() -> dict[str, Any]:
        return {"name": "segrefine", "version": __version__, "extensions": ["binary_tensor_data"]}

    @app.get("/v2/models/{name}", summary="A model's tensors", tags=["KServe v2"])
    @app.get("/v2/models/{name}/versions/{version}", include_in_schema=False)
    async def metadata(name: str, version: str = VERSION) -> dict[str, Any]:
        return _describe(_find(models, name, version))

    @app.get("/v2/models/{name}/ready", summary="Whether a model takes requests", tags=["KServe v2"])
    @app.get("/v2/models/{name}/versions/{version}/ready", include_in_schema=False)
    async def ready(request: Request, name: str, version: str = VERSION) -> Response:
        _find(models, name, version)
        replier: Replier = request.app.state.replier
        return JSONResponse({"name": name, "ready": replier.dispatcher.ready}, 200 if replier.dispatcher.ready else 503)

    @app.post("/v2/models/{name}/infer", summary="Refine or segment, by tensors", tags=["KServe v2"])
    @app.post("/v2/models/{name}/versions/{version}/infer", include_in_schema=False)
    async def infer(request: Request, name: str, version: str = VERSION) -> Response:
        model, replier = _find(models, name, version), request.app.state.replier
        return await _infer(request, replier, model)


async def _infer(request: Request, replier: Replier, model: ServedModel[Any]) -> Response:
    length, limits = request.headers.get(LENGTH_HEADER), replier.limits
    asked: InferRequest | None = None

    def parse(body: bytes) -> tuple[Pictures, Parameters]:
        nonlocal asked
        asked = read_request(body, length)
        return _read(asked, model, limits)

    answer = await replier.compute(request, parse, model)
    assert asked is not None  # it was read before anything was computed
    warnings = {"warnings": json.dumps(answer.values["warnings"])}
    values = {"model_name": model.served.name, "model_version": VERSION, "parameters": warnings}
    body, headers = write_answer(values, answer.values["tensors"], asked)
    return PiecewiseReply(body, headers=headers)


def _find(models: Mapping[str, ServedModel[Any]], name: str, version: str) -> ServedModel[Any]:
    if name not in models:
        raise Problem(404, "no_such_model", f"a model that this service has ({', '.join(models)})", repr(name[:80]),
                      "GET /v1/models lists them")  # fmt: skip
    if version != VERSION:
        raise Problem(404, "no_such_version", f"version {VERSION}", repr(version[:80]), "leave the version out")
    return models[name]


def _signature_of(model: ServedModel[Any]) -> Signature:
    return SIGNATURES["gs" if isinstance(model, PhraseModel) else "g4seg"]


def _describe(model: ServedModel[Any]) -> dict[str, Any]:
    def tensors(several: tuple[Tensor, ...]) -> list[dict[str, Any]]:
        return [{"name": each.name, "datatype": datatype_of(each), "shape": [1, *each.dims]} for each in several]

    signature = _signature_of(model)
    return {
        "name": model.served.name, "versions": [VERSION], "platform": f"segrefine_{model.pipeline.settings.method}",
        "inputs": tensors(signature.inputs), "outputs": tensors(signature.outputs),
    }  # fmt: skip


def _read(asked: InferRequest, model: ServedModel[Any], limits: Limits) -> tuple[Pictures, Parameters]:
    """The tensors and parameters of a request as those of a request to /v1."""
    signature = _signature_of(model)
    _check_tensors(asked, signature)
    tensors = {name: array[0] for name, array in asked.tensors.items()}
    files = {"image": [png(tensors.pop("image"))]}
    if "mask" in tensors:
        files["mask"] = [_npy(mask) for mask in tensors.pop("mask")]
    values = {name: array.tolist() for name, array in tensors.items()}
    for name in values.keys() & {"caption", "seed"}:
        [values[name]] = values[name]
    if fixed := sorted(asked.parameters.keys() & {"maps", "format", "soft_format", "model"}):
        raise Problem(
            422, "bad_field", "outputs, which say what is answered", f"the parameter {fixed[0]}", "leave it out"
        )
    if twice := sorted(values.keys() & asked.parameters.keys()):
        raise Problem(422, "bad_field", f"{twice[0]} once", "an input and a parameter", "leave one of them out")
    kind: type[Parameters] = SegmentParameters if isinstance(model, PhraseModel) else RefineParameters
    # So that the answer's size is checked: the outputs are soft maps of 4 bytes.
    wanted = ["probability", *(["uncertainty"] if kind is SegmentParameters else [])]
    fields = {**values, **asked.parameters, "maps": wanted, "soft_format": "npy"}
    return read_inputs(Form(values=fields, files=files), kind, limits)


def _check_tensors(asked: InferRequest, signature: Signature) -> None:
    """Check names, datatypes and shapes.

    Raises:
        Problem: something is missing, unknown or of another kind.
    """
    known = {each.name: each for each in signature.inputs}
    if stray := sorted(asked.tensors.keys() - known.keys()):
        hint = "other values are parameters of the request"
        raise Problem(422, "bad_field", f"inputs among {', '.join(known)}", repr(stray[0]), hint)
    for name, tensor in known.items():
        array = asked.tensors.get(name)
        if array is None:
            marked = name == "mask" and asked.parameters.keys() & {"box", "point"}
            if tensor.optional or marked:
                continue
            hint = "GET /v2/models/NAME lists the inputs" + "; box and point are parameters" * (name == "mask")
            raise Problem(422, "bad_field", f"an input {name}", "none", hint)
        shape = (1, *tensor.dims)
        fits = array.ndim == len(shape) and all(side in (-1, own) for side, own in zip(shape, array.shape, strict=True))
        if not fits or not array.size or not _has_type(array, tensor):
            expected = f"{name} as {datatype_of(tensor)} {list(shape)}, {_ONE}"
            raise Problem(422, "bad_field", expected, f"{array.dtype} {list(array.shape)}", "-1 stands for any size")


def _has_type(array: NDArray[Any], tensor: Tensor) -> bool:
    """Return whether an array has the type of a tensor; a mask may also be of bool or bytes, as its file may."""
    types = {"UINT8": "uint8", "FP32": "float32", "STRING": "object", "INT64": "int64"}
    return array.dtype == types[tensor.data_type] or (tensor.name == "mask" and array.dtype in (np.bool_, np.uint8))


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
