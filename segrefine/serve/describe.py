"""OpenAPI descriptions of the routes: bodies, answers and examples."""

from __future__ import annotations

from typing import Any

from segrefine.runtime.files.image import FORMATS
from segrefine.serve.inputs import PICTURES
from segrefine.serve.parameters import Parameters, RefineParameters, SegmentParameters
from segrefine.serve.problem import MEDIA_TYPE, Problem

OPENAPI: dict[str, Any] = {
    "summary": "Coarse mask in, sharp mask out; or a phrase in, a mask out.",
    "description": "Every error is a problem document (RFC 9457). 429 and 503 carry Retry-After.",
    "license_info": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}
_BINARY = {"type": "string", "contentMediaType": "application/octet-stream", "format": "binary"}
_BASE64 = {"type": "string", "contentEncoding": "base64"}
_PICTURES = {
    "image": f"{', '.join(FORMATS)}; AVIF and HEIC where Pillow reads them.",
    "mask": "As large as the image, in any format: white or an index above 0 is the object, transparent is background; "
    "or .npy of probabilities. Repeat it for several labels.",
    "scribble": "Instead of a mask: strokes, white on the object, black on background, the rest grey or transparent.",
}
_PIXELS = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAAAAABX3VL4AAAADklEQVR42mP8z8DAwAAABQcBAcLx+BkAAAAASUVORK5CYII="
"""Two white pixels above two black ones, which pass as an image and as a mask."""
_PROBLEMS = {
    400: Problem(400, "bad_json", "JSON in UTF-8", "Expecting value: line 1 column 1 (char 0)", "see /docs"),
    401: Problem(401, "unauthorized", "the service's key in Authorization: Bearer …", "none", "ask who runs it"),
    404: Problem(404, "no_such_model", "a model that this service has (photo)", "'other'", "GET /v1/models"),
    406: Problem(406, "not_acceptable", "application/json, image/png or text/event-stream", "'text/html'", "change it"),
    408: Problem(408, "body_too_slow", "the whole body within 30 s (--body-timeout)", "17 bytes of it", "send less"),
    413: Problem(413, "body_too_large", "a body of at most 64 MiB (--max-body-mib)", "more", "send less"),
    415: Problem(415, "bad_media_type", "multipart/form-data or application/json", "'text/plain'", "send a form"),
    422: Problem(422, "bad_mask", "a mask of 128×128 pixels, as the image", "64×64", "resize the mask"),
    429: Problem(429, "queue_full", "at most 16 requests waiting (--queue)", "one more", "try again after 2 s"),
    500: Problem(500, "internal_error", "an answer", "an unexpected failure", "look into the service's log"),
    503: Problem(503, "draining", "a service that stays", "one that is about to stop", "try again after 1 s"),
    504: Problem(504, "timeout", "an answer within 60 s (--timeout)", "none by then", "send a smaller image"),
}
_ZERO_SHOT = (
    " The default is the first label diffusion model. `model` may also name a text-to-image model that refines: it "
    "finds the phrases zero-shot, by its own settings, and refines the masks."
)
_MASK = {"format": "png", "data": _PIXELS}
_ANSWERS = {
    "refine": {"request_id": "6f1ed002ab559585", "model": "photo", "label": "cat", "size": [2, 2], "mask": _MASK,
               "changed": 0.25, "iou_with_coarse": 0.71, "evidence_worth": 1.0, "confidence": 0.97,
               "confidence_threshold": 0.92, "kept_coarse": False, "kept_share": 0.0,
               "crop": None, "warnings": [], "seconds": {"read": 0.001, "write": 0.001}},
    "segment": {"request_id": "6f1ed002ab559585", "model": "photo-gs", "size": [2, 2], "warnings": [],
                "segments": [{"phrase": "the cat", "mask": _MASK, "area": 0.5, "confidence": 0.97}],
                "seconds": {"read": 0.001, "write": 0.001}},
}  # fmt: skip
_EXAMPLES: dict[str, dict[str, Any]] = {
    "refine": {"image": _PIXELS, "mask": _PIXELS, "label": "cat", "maps": ["probability"]},
    "segment": {"image": _PIXELS, "phrases": ["the cat", "the dog"], "samples": 4, "maps": ["uncertainty"]},
}


def describe_route(method: str) -> dict[str, Any]:
    """Keywords of the route of a method, `refine` or `segment`."""
    refine = method == "refine"
    kind: type[Parameters] = RefineParameters if refine else SegmentParameters
    body = {
        media: {"schema": _schema(kind, {name: _describe_picture(name, picture) for name in PICTURES[kind]})}
        for media, picture in (("multipart/form-data", _BINARY), ("application/json", _BASE64))
    }
    body["application/json"]["example"] = _EXAMPLES[method]
    return {
        "summary": "Refine a coarse mask" if refine else "Masks of what phrases name",
        "description": "With `Accept: image/png` the mask, or the label map, itself; with `text/event-stream` events "
        "`progress`, then `result` or `problem`; else JSON." + ("" if refine else _ZERO_SHOT),
        "tags": ["masks"],
        "openapi_extra": {"requestBody": {"required": True, "content": body}},
        "responses": {200: _success(method), **{status: _failure(each) for status, each in _PROBLEMS.items()}},
    }


def _describe_picture(name: str, picture: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field that holds a picture; masks may be several."""
    several = {"anyOf": [picture, {"type": "array", "items": picture}]} if name == "mask" else picture
    return {**several, "description": _PICTURES[name]}


def describe_mask_route() -> dict[str, Any]:
    """Keywords of the route that shows how a mask is read."""
    body = {
        media: {"schema": {"type": "object", "properties": {"mask": {**picture, "description": _PICTURES["mask"]}},
                           "required": ["mask"]}}
        for media, picture in (("multipart/form-data", _BINARY), ("application/json", _BASE64))
    }  # fmt: skip
    body["application/json"]["example"] = {"mask": _PIXELS}
    return {
        "summary": "Show how a mask is read",
        "description": "The probability of each pixel, as a grey PNG: black is 0, white is 1. Nothing is refined.",
        "tags": ["masks"],
        "openapi_extra": {"requestBody": {"required": True, "content": body}},
        "responses": {
            200: {"description": "The mask.", "content": {"image/png": {"schema": _BINARY}}},
            **{status: _failure(each) for status, each in _PROBLEMS.items() if status not in (404, 406, 504)},
        },
    }


def _schema(kind: type[Parameters], pictures: dict[str, Any]) -> dict[str, Any]:
    schema = kind.model_json_schema()
    return {**schema, "properties": {**pictures, **schema["properties"]},
            "required": ["image", *schema.get("required", [])]}  # fmt: skip


def _success(method: str) -> dict[str, Any]:
    events = 'event: progress\ndata: {"stage": "encode", "share": 0.17}\n\nevent: result\ndata: {…}\n\n'
    return {
        "description": "The masks.",
        "headers": {
            "X-Segrefine-Warnings": {
                "schema": {"type": "string"},
                "example": "[\"nothing was taken for 'the fox'\"]",
                "description": "Of an answer that is a PNG: its warnings, where there are any, as an array in JSON.",
            }  # fmt: skip
        },
        "content": {
            "application/json": {"schema": {"type": "object"}, "example": _ANSWERS[method]},
            "image/png": {"schema": _BINARY},
            "text/event-stream": {"schema": {"type": "string"}, "example": events},
        },
    }


def _failure(problem: Problem) -> dict[str, Any]:
    example = problem.to_dict("6f1ed002ab559585")
    return {
        "description": example["title"],
        "content": {MEDIA_TYPE: {"schema": {"type": "object"}, "example": example}},
    }
