"""What a request asks: its pictures and its parameters, checked as far as that goes without decoding."""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
import types
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from PIL import Image
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from segrefine.errors import ImageError, MaskError, SettingsError
from segrefine.runtime.image import FORMATS, load_image, name_of
from segrefine.runtime.narrative import split_caption
from segrefine.serve.body import Form
from segrefine.serve.limits import MIB, Limits
from segrefine.serve.problem import Problem
from segrefine.settings import G4SegSettings, GsSettings, Settings

SettingsT = TypeVar("SettingsT", bound=Settings)
LONGEST_TEXT = 4096
MOST_PHRASES = 256
MOST_SAMPLES = 16
MOST_STEPS = 100
MOST_PASSES = 256
"""Of the UNet, in the refinement of one mask."""
_PICTURES = ("image", "mask")
_BYTES = {"png": 2, "npy": 4, "overlay": 3, "label_map": 1, "rounds": 0}
"""Of a pixel: of soft maps by their format, of pictures by their name; those of rounds are small."""


def _check_text(text: str) -> str:
    if len(text.encode("utf-8", "replace")) > LONGEST_TEXT:
        raise ValueError(f"at most {LONGEST_TEXT} bytes")
    return text


Text = Annotated[str, AfterValidator(_check_text)]


def _read_settings(given: object) -> object:
    """The object that a form's text holds as JSON; what came in a JSON body stays as it is."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except ValueError as error:
        raise ValueError(f'expected an object in JSON, such as {{"noises": 1}}: {error}') from None


class Parameters(BaseModel, ABC):
    """What both methods take besides pictures."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    model: str | None = Field(None, description="A name of /v1/models; without, the first that can.", max_length=200)
    seed: int = Field(0, ge=0, lt=2**32, description="Of the noise; the same seed gives the same mask.")
    format: Literal["png", "rle"] = Field("png", description="Of masks: PNG of 0 and 255, or COCO run lengths.")
    soft_format: Literal["png", "npy"] = Field("png", description="Of soft maps: 16-bit PNG, or float32 .npy.")

    preset: str | None = Field(None, description="Preset of the settings, such as fast.", max_length=200)
    settings: Annotated[dict[str, Any], BeforeValidator(_read_settings)] = Field(
        {}, description="Other values for settings, by name. /v1/models lists them.", examples=[{}]
    )

    @abstractmethod
    def pixel_bytes(self) -> int:
        """Bytes that maps take for a pixel of the image, at most."""

    def change(self, base: SettingsT) -> SettingsT:
        """The settings of a model with this request's changes: first the preset, then single values.

        Raises:
            SettingsError: there is no such preset or setting, or a value is wrong or costs too much.
        """
        changed = (base.with_preset(self.preset) if self.preset else base).with_changes(self.changes())
        check_cost(changed, base)
        return changed

    def changes(self) -> dict[str, Any]:
        """Single values that were given, by the names of the settings."""
        return self.settings


def check_cost(settings: Settings, base: Settings) -> None:
    """Check that a request's settings are no way to occupy the service; the model's own may cost more.

    Raises:
        SettingsError: a bound is passed.
    """
    bounds: dict[str, tuple[float, float, float]] = {}
    if isinstance(settings, G4SegSettings) and isinstance(base, G4SegSettings):
        bounds["passes of the UNet"] = (settings.count_passes(), base.count_passes(), MOST_PASSES)
        bounds["bytes of template"] = (len(settings.template), len(base.template), LONGEST_TEXT)
    elif isinstance(settings, GsSettings) and isinstance(base, GsSettings):
        bounds["samples"] = (settings.samples, base.samples, MOST_SAMPLES)
        bounds["steps"] = (settings.steps, base.steps, MOST_STEPS)
    for name, (value, own, most) in bounds.items():
        if value > max(own, most):
            raise SettingsError(f"expected settings with at most {max(own, most)} {name}; got {value}")


class RefineParameters(Parameters):
    """What refining takes besides pictures."""

    label: Text = Field(description="What the mask shows, such as fox.", examples=["fox"])
    guard: bool = Field(True, description="Undo changes that cannot be trusted.")
    crop: bool = Field(True, description="Refine an object under 1 % of the image in a crop around it.")
    maps: list[Literal["probability", "paper_probability", "overlay", "rounds"]] = Field(
        [], description="What to give besides the mask."
    )

    def pixel_bytes(self) -> int:
        """See `Parameters`."""
        return sum(_BYTES.get(name, _BYTES[self.soft_format]) for name in self.maps)


class SegmentParameters(Parameters):
    """What segmenting takes besides the picture."""

    phrases: list[Text] = Field([], max_length=MOST_PHRASES, description="What to look for.", examples=[["the fox"]])
    caption: Text | None = Field(None, description="Instead of phrases: a sentence, whose noun phrases they are.")
    samples: int | None = Field(
        None, ge=1, le=MOST_SAMPLES, description="Masks drawn for each phrase.  [default: the model's]"
    )
    steps: int | None = Field(None, ge=1, le=MOST_STEPS, description="Of the sampler; the model's, if none.")
    sampler: Literal["ddim", "dpm-solver", "lcm"] | None = Field(None, description="The model's, if none.")
    guidance_scale: float | None = Field(None, ge=0, le=100, description="Guidance by the phrase; 1 is none.")
    image_guidance_scale: float | None = Field(None, ge=0, le=100, description="Guidance by the image; 1 is none.")
    edges: bool | None = Field(None, description="Whether borders are moved to the image's edges.")
    maps: list[Literal["probability", "uncertainty", "label_map", "overlay"]] = Field(
        [], description="What to give besides the masks; uncertainty takes two samples or more."
    )

    @model_validator(mode="after")
    def _check_phrases(self) -> SegmentParameters:
        if bool(self.phrases) == (self.caption is not None):
            raise ValueError("phrases or a caption, and not both")
        return self

    def named(self) -> list[str]:
        """The phrases, or those of the caption."""
        return self.phrases if self.caption is None else [span.text for span in split_caption(self.caption)[1]]

    def pixel_bytes(self) -> int:
        """See `Parameters`."""
        soft = len(self.named()) * _BYTES[self.soft_format]
        return sum(_BYTES.get(name, soft) for name in self.maps)

    def changes(self) -> dict[str, Any]:
        """See `Parameters`; fields of their own win over `settings`."""
        names = ("samples", "steps", "sampler", "guidance_scale", "image_guidance_scale", "edges")
        return self.settings | {name: value for name in names if (value := getattr(self, name)) is not None}


ParametersT = TypeVar("ParametersT", bound=Parameters)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The files of a request as they came.

    Attributes:
        image: the file.
        mask: another; None where none is needed.
        size: (height, width) of the image as its header says, in pixels; an EXIF orientation may yet turn it.
    """

    image: bytes
    mask: bytes | None
    size: tuple[int, int]


def read_inputs(form: Form, kind: type[ParametersT], limits: Limits, *, mask: bool) -> tuple[Pictures, ParametersT]:
    """Pictures and parameters of a form.

    Args:
        form: the body.
        kind: what it should hold.
        limits: of the service.
        mask: whether a mask is needed.

    Raises:
        Problem: something is missing, unknown, of another type or too large.
        ImageError: a picture is none.
    """
    names = _PICTURES if mask else _PICTURES[:1]
    files = {name: _picture(form, name) for name in names}
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
    sizes = []
    for name, content in files.items():
        with telling_of(name):
            sizes.append(_check_size(content, limits))
    _check_maps(parameters.pixel_bytes() * math.prod(sizes[0]), limits)
    return Pictures(image=files["image"], mask=files.get("mask"), size=sizes[0]), parameters


@contextmanager
def telling_of(name: str) -> Iterator[None]:
    """A context in which errors on a file's bytes tell which of the pictures it is; to the library bytes have no name.

    Raises:
        ImageError: the picture cannot be read; so is MaskError.
    """
    try:
        yield
    except (ImageError, MaskError) as error:
        unnamed = name_of(b"")
        message = str(error).removeprefix(f"{unnamed}: ").replace(unnamed, f"the {name}", 1)
        raise type(error)(message, hint=error.hint) from error


def _picture(form: Form, name: str) -> bytes:
    if name in form.files:
        return form.files[name]
    text = form.values.get(name)
    if not isinstance(text, str):
        got = "none" if text is None else "a text of a form" if form.multipart else type(text).__name__
        hint = f"a form carries it as a file part (curl -F {name}=@{name}.png, with the @), JSON as a text in base64"
        raise Problem(422, "bad_field", f"a picture {name}", got, hint)
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem(422, "bad_field", f"{name} in base64", str(error), "encode the file's bytes in base64") from None


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
    first: Mapping[str, Any] = error.errors(include_url=False, include_context=False)[0]
    name = ".".join(map(str, first["loc"])) or "the request"
    if first["type"] == "missing":
        return Problem(422, "bad_field", f"a field {name}", "none", f"such as curl -F {name}=…; /docs lists each field")
    said, got = first["msg"].removeprefix("Value error, "), repr(first["input"])
    return Problem(422, "bad_field", f"{name}: {said[:1].lower()}{said[1:]}", got[:200], "see /docs for each field")


def _check_size(content: bytes, limits: Limits) -> tuple[int, int]:
    """(height, width) by a picture's header, before anything is decoded; (0, 0) of `.npy`, no larger than the body."""
    if content.startswith(b"\x93NUMPY"):
        return 0, 0
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            width, height = picture.size
    except Image.DecompressionBombError as error:
        raise _too_large(limits, str(error)) from None
    except Exception:  # Pillow's readers fail in many ways; the one reader of pictures says how
        image = load_image(content)
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
