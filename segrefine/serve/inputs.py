"""Inputs of a request: pictures and parameters, checked as far as that goes without decoding."""

from __future__ import annotations

import base64
import io
import math
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar, Union, get_args, get_origin

from PIL import Image
from pydantic import ValidationError

from segrefine.errors import ImageError, MaskError, SegrefineError
from segrefine.runtime.files.image import MEGAPIXELS, describe_size, formats_of, load_image
from segrefine.serve.body import Form
from segrefine.serve.limits import MIB, Limits
from segrefine.serve.parameters import Parameters, RefineParameters, SegmentParameters
from segrefine.serve.problem import Problem

_BASE64 = str.maketrans("-_", "+/", " \t\r\n")
_NO_BASE64 = re.compile(r"[^A-Za-z0-9+/]")
ParametersT = TypeVar("ParametersT", bound=Parameters)
PICTURES: Mapping[type[Parameters], tuple[str, ...]] = {
    RefineParameters: ("image", "mask", "scribble"),
    SegmentParameters: ("image",),
}
"""Names of the pictures that requests may hold."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The files of a request as they came.

    Attributes:
        image: the file.
        masks: those of a refinement, one for each label; none where marks take their place.
        scribble: a file of strokes; None where there is none.
        size: (height, width) of the image as its header says, in pixels; an EXIF orientation may yet turn it.
        max_megapixels: largest size that the service reads.
    """

    image: bytes
    size: tuple[int, int]
    max_megapixels: float = MEGAPIXELS
    masks: tuple[bytes, ...] = ()
    scribble: bytes | None = None


def read_inputs(form: Form, kind: type[ParametersT], limits: Limits) -> tuple[Pictures, ParametersT]:
    """Pictures and parameters of a form.

    Args:
        form: the body.
        kind: what it should hold.
        limits: of the service.

    Raises:
        Problem: something is missing, unknown, of another type or too large.
        ImageError: a picture is none.
    """
    names = PICTURES[kind]
    files = {name: _pictures(form, name) for name in names}
    rest = {name: value for name, value in form.values.items() if name not in names}
    if stray := sorted((form.files.keys() | rest.keys()) - kind.model_fields.keys() - set(names)):
        known = [*names, *kind.model_fields]
        close = get_close_matches(stray[0][:40], known, 1)
        hint = f"write {close[0]}" if close else "leave it out, or see /docs"
        raise Problem(422, "bad_field", f"fields among {', '.join(known)}", repr(stray[0]), hint)
    values = {name: _of_form(kind, name, each) for name, each in rest.items()} if form.multipart else rest
    try:
        parameters = kind.model_validate(values)
    except ValidationError as error:
        raise _bad_field(error) from None
    masks, scribble = files.get("mask", []), files.get("scribble", [])
    _check_counts(files, parameters)
    sizes = []
    for name, contents in files.items():
        for content in contents:
            with telling_of(name):
                sizes.append(_check_size(content, limits))
    _check_maps(parameters.pixel_bytes() * math.prod(sizes[0]), limits)
    pictures = Pictures(
        image=files["image"][0], size=sizes[0], max_megapixels=limits.max_megapixels, masks=tuple(masks),
        scribble=scribble[0] if scribble else None,
    )  # fmt: skip
    return pictures, parameters


def _check_counts(files: Mapping[str, Sequence[bytes]], parameters: Parameters) -> None:
    """Check that there is one image, one set of strokes at most, and one mask for each label, or marks instead.

    Raises:
        Problem: it is otherwise.
    """
    for name in files.keys() - {"mask"}:
        if len(files[name]) > 1:
            raise Problem(422, "bad_field", f"one picture {name}", f"{len(files[name])} of them", "send it once")
    if not files["image"]:
        raise _no_picture("image", "none", "")
    if not isinstance(parameters, RefineParameters):
        return
    masks, labels = len(files["mask"]), len(parameters.label)
    marks = bool(parameters.box or parameters.point or files["scribble"])
    if marks and (masks or labels > 1):
        got = f"{masks} masks and marks" if masks else f"marks and {labels} labels"
        hint = "box, point and scribble mark the one object that has no mask"
        raise Problem(422, "bad_field", "a mask for each label, or marks of one object", got, hint)
    if not marks and not masks:
        raise _no_picture("mask", "none", "; or mark the object by box, point or scribble")
    if not marks and masks != labels:
        expected = f"a label for each mask, which makes {masks}"
        raise Problem(422, "bad_field", expected, f"{labels} labels", "send label once for each mask, in their order")


def read_mask_file(form: Form, limits: Limits) -> bytes:
    """The one picture of a form that holds a mask, checked as far as that goes without decoding.

    Raises:
        Problem: it is missing or too large, or there are other fields.
        ImageError: it is no picture.
    """
    if stray := sorted((form.files.keys() | form.values.keys()) - {"mask"}):
        raise Problem(422, "bad_field", "one field mask", repr(stray[0]), "leave it out")
    masks = _pictures(form, "mask")
    if len(masks) != 1:
        raise _no_picture("mask", f"{len(masks)} of them" if masks else "none", "")
    with telling_of("mask"):
        _check_size(masks[0], limits)
    return masks[0]


@contextmanager
def telling_of(name: str) -> Iterator[None]:
    """A context in which errors name the picture, since bytes have no name of their own.

    Raises:
        ImageError: the picture cannot be read; so is MaskError.
    """
    try:
        yield
    except (ImageError, MaskError) as error:
        raise error.about(name) from error


def _pictures(form: Form, name: str) -> list[bytes]:
    """The files sent under a name; of JSON a text in base64, or a list of them."""
    if name in form.files:
        return list(form.files[name])
    given = form.values.get(name)
    if given is None:
        return []
    if form.multipart:
        raise _no_picture(name, "a text of a form", "")
    return [_decode_picture(each, name) for each in (given if isinstance(given, list) else [given])]


def _no_picture(name: str, got: str, instead: str) -> Problem:
    hint = f"a form carries it as a file part (curl -F {name}=@{name}.png, with the @), JSON as a text in base64"
    return Problem(422, "bad_field", f"a picture {name}", got, hint + instead)


def _decode_picture(text: object, name: str) -> bytes:
    if not isinstance(text, str):
        raise _no_picture(name, type(text).__name__, "")
    return decode_base64(text, name)


def decode_base64(text: str, name: str) -> bytes:
    """The bytes of a text in base64, in any spelling: with line breaks, URL-safe, without padding, or in an address.

    Args:
        text: such as `base64 file`, `encodebytes` or `urlsafe_b64encode` write it.
        name: of the field, for the problem.

    Raises:
        Problem: it is no base64; the problem names the first character that is wrong.
    """
    if text[:80].lstrip().lower().startswith("data:"):
        text = text.partition(",")[2]
    plain = text.translate(_BASE64).rstrip("=")
    if stray := _NO_BASE64.search(plain):
        got = f"the character {stray[0]!r}"
    elif len(plain) % 4 == 1:
        got = f"{len(plain)} characters, which no bytes encode to"
    else:
        return base64.b64decode(plain + "=" * (-len(plain) % 4))
    raise Problem(422, "bad_field", f"{name} in base64", got, "encode the file's bytes in base64")


def _of_form(kind: type[Parameters], name: str, texts: list[str]) -> object:
    """The value of a form's field, which came as one text or several; lists may also be parted by commas."""
    if _is_list(kind.model_fields[name].annotation):
        return [part.strip() for text in texts for part in text.split(",")] if name == "maps" else texts
    if len(texts) > 1:
        raise Problem(422, "bad_field", f"one {name}", f"{len(texts)} of them", "send it once")
    return texts[0]


def _is_list(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, types.UnionType):
        return any(map(_is_list, get_args(annotation)))
    return get_origin(annotation) is list


def _bad_field(error: ValidationError) -> Problem:
    first: Mapping[str, Any] = error.errors(include_url=False)[0]
    name = ".".join(map(str, first["loc"])) or "the request"
    if first["type"] == "missing":
        return Problem(422, "bad_field", f"a field {name}", "none", f"such as curl -F {name}=…; /docs lists each field")
    told = first.get("ctx", {}).get("error")
    if isinstance(told, SegrefineError) and told.expected and told.got:
        return Problem(422, "bad_field", told.expected, told.got, told.hint or "see /docs for each field")
    said = str(first.get("ctx", {}).get("error", first["msg"]))  # that of a validator of ours, or else pydantic's own
    got = repr(first["input"])
    return Problem(422, "bad_field", f"{name}: {said[:1].lower()}{said[1:]}", got[:200], "see /docs for each field")


def _check_size(content: bytes, limits: Limits) -> tuple[int, int]:
    """(height, width) by a picture's header, before anything is decoded; (0, 0) of `.npy`, no larger than the body."""
    if content.startswith(b"\x93NUMPY"):
        return 0, 0
    try:
        with Image.open(io.BytesIO(content), formats=formats_of(content)) as picture:
            width, height = picture.size
    except Image.DecompressionBombError as error:
        raise _too_large(limits, describe_size(error)) from None
    except Exception:  # Pillow's readers fail in many ways; the one reader of pictures says how
        image = load_image(content, max_megapixels=limits.max_megapixels)
        height, width = image.shape[:2]
    if width * height > limits.max_megapixels * 1e6:
        raise _too_large(limits, f"{width}×{height} pixels")
    return height, width


def _check_maps(size: int, limits: Limits) -> None:
    if size > limits.max_maps_mib * MIB:
        raise Problem(
            422, "maps_too_large", f"maps of at most {limits.max_maps_mib:g} MiB in an answer (--max-maps-mib)",
            f"{size / MIB:.0f} MiB", "ask for fewer maps or phrases, or soft_format=png; or scale it down",
        )  # fmt: skip


def _too_large(limits: Limits, got: str) -> Problem:
    expected = f"pictures of at most {limits.max_megapixels:g} megapixels (--max-megapixels)"
    return Problem(413, "image_too_large", expected, got, "scale it down")
