"""The fields of a request besides its pictures: what each method takes, and what it may cost."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    WithJsonSchema,
    model_validator,
)

from segrefine.datasets.class_lists import CLASS_LISTS
from segrefine.datasets.classes import ClassList, make_classes
from segrefine.errors import PromptError, SettingsError
from segrefine.runtime.files.marks import Box, Point
from segrefine.runtime.words.context import read_caption
from segrefine.samplers import SAMPLERS
from segrefine.settings import G4SegSettings, GsSettings, Settings, ZeroShotSettings

SettingsT = TypeVar("SettingsT", bound=Settings)
LONGEST_TEXT = 4096
MOST_PHRASES = 256
MOST_LABELS = 256
MOST_SAMPLES = 16
MOST_STEPS = 100
MOST_PASSES = 256
"""Of the UNet, in the refinement of one mask, or in finding one phrase."""
MOST_PASSES_TOGETHER = 1024
"""Of the UNet, for all masks or phrases of a request."""
MOST_PREDICTIONS = 8192
"""Of the label denoiser, for all phrases of a request."""
_BYTES = {"png": 2, "npy": 4, "overlay": 3, "cutout": 4, "label_map": 2, "rounds": 0}
"""Of a pixel: of soft maps by their format, of pictures by their name; those of rounds are small."""


def _check_text(text: str) -> str:
    if len(text.encode("utf-8", "replace")) > LONGEST_TEXT:
        raise ValueError(f"at most {LONGEST_TEXT} bytes")
    return text


def _check_sampler(name: str) -> str:
    if name not in SAMPLERS:
        raise ValueError(f"one of {', '.join(SAMPLERS)}")
    return name


def _list_samplers(schema: dict[str, Any]) -> None:
    schema["enum"] = list(SAMPLERS)


Text = Annotated[str, AfterValidator(_check_text)]
SamplerName = Annotated[str, AfterValidator(_check_sampler), Field(json_schema_extra=_list_samplers)]


def _read_settings(given: object) -> object:
    """The object that a form's text holds as JSON; what came in a JSON body stays as it is."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except ValueError as error:
        raise ValueError(f'expected an object in JSON, such as {{"noises": 1}}: {error}') from None


def _as_list(given: object) -> object:
    """One text as a list of one; what is none stays as it is."""
    return [given] if isinstance(given, str) else given


def _read_numbers(given: object, counts: tuple[int, ...], example: str) -> list[list[float]]:
    """Groups of numbers, each as a text with commas or as a list; one group may stand alone."""
    lone = isinstance(given, str) or (isinstance(given, list) and given and isinstance(given[0], int | float))
    groups: list[list[float]] = []
    given_groups: list[Any] = given if isinstance(given, list) and not lone else [given]
    for group in given_groups:
        parts = group.split(",") if isinstance(group, str) else group
        try:
            numbers = [float(part) for part in parts]
        except (TypeError, ValueError):
            numbers = []
        if len(numbers) not in counts or not all(map(math.isfinite, numbers)):
            raise ValueError(f"expected numbers of pixels, such as {example}")
        groups.append(numbers)
    return groups


def _read_boxes(given: object) -> list[Box]:
    return [Box(*numbers) for numbers in _read_numbers(given, (4,), "40,20,180,160")]


def _read_points(given: object) -> list[Point]:
    groups = _read_numbers(given, (2, 3), "90,75, or 10,10,0 off the object")
    return [Point(x, y, not on or on[0] != 0) for x, y, *on in groups]


def _read_classes(given: object) -> ClassList | None:
    """A class list by its name, or the classes of a JSON list of names or of names by index; no file is read."""
    if given is None:
        return None
    names = given
    if isinstance(given, str):
        if given.strip() in CLASS_LISTS:
            return _check_classes(CLASS_LISTS[given.strip()])
        try:
            names = json.loads(given)
        except ValueError:
            names = None
    if isinstance(names, list):
        names = {str(index): name for index, name in enumerate(names)}
    if not isinstance(names, dict):
        raise ValueError(
            f'expected {", ".join(CLASS_LISTS)}, or names in JSON, such as ["background", "fox"] or {{"3": "fox"}}'
        )
    return _check_classes(make_classes(names, "the class list"))


def _check_classes(classes: ClassList) -> ClassList:
    classes.check_findable()
    if len(classes.names) > MOST_PHRASES:
        raise ValueError(f"expected at most {MOST_PHRASES} classes")
    for name in classes.names.values():
        _check_text(name)
    return classes


_CLASSES_SCHEMA = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "object"}],
    "examples": ["voc", ["background", "fox"], {"3": "fox"}],
}


class Parameters(BaseModel, ABC):
    """Parameters of both methods besides pictures."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    model: str | None = Field(
        None,
        max_length=200,
        description="A name of /v1/models. To segment, also the name of a text-to-image model that refines.  "
        "[default: the first model of the endpoint]",
    )
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
        check_cost_together(changed, base, self.count())
        return changed

    @abstractmethod
    def count(self) -> int:
        """Return how many masks or phrases are asked for."""

    def check_maps(self, settings: Settings) -> None:
        """Check that a model with these settings, those of the request, can give the maps.

        Raises:
            SettingsError: it cannot.
        """

    def changes(self) -> dict[str, Any]:
        """Single values that were given, by the names of the settings."""
        return self.settings


def check_cost(settings: Settings, base: Settings) -> None:
    """Check that a request's settings are no way to occupy the service; the model's own may cost more.

    Raises:
        SettingsError: a bound is passed.
    """
    bounds: dict[str, tuple[float, float, float]] = {}
    if (isinstance(settings, G4SegSettings) and isinstance(base, G4SegSettings)) or (
        isinstance(settings, ZeroShotSettings) and isinstance(base, ZeroShotSettings)
    ):
        bounds["passes of the UNet"] = (settings.count_passes(), base.count_passes(), MOST_PASSES)
        bounds["bytes of template"] = (len(settings.template), len(base.template), LONGEST_TEXT)
    if isinstance(settings, ZeroShotSettings) and isinstance(base, ZeroShotSettings):
        # spreading calls no engine, so that a time limit cannot stop it
        bounds["spread_steps"] = (settings.spread_steps, base.spread_steps, MOST_STEPS)
    if isinstance(settings, GsSettings) and isinstance(base, GsSettings):
        bounds["samples"] = (settings.samples, base.samples, MOST_SAMPLES)
        bounds["steps"] = (settings.steps, base.steps, MOST_STEPS)
    for name, (value, own, most) in bounds.items():
        if value > max(own, most):
            raise SettingsError(expected=f"settings with at most {max(own, most)} {name}", got=value)


def check_cost_together(settings: Settings, base: Settings, count: int) -> None:
    """Check that the masks or phrases of a request do not occupy the service by their number.

    Args:
        settings: those of the request.
        base: the model's own. One mask or phrase may cost what they say.
        count: how many masks or phrases there are.

    Raises:
        SettingsError: the bound is passed.
    """
    if isinstance(settings, G4SegSettings | ZeroShotSettings) and isinstance(base, G4SegSettings | ZeroShotSettings):
        passes, own, most, unit = settings.count_passes(count), base.count_passes(), MOST_PASSES_TOGETHER, "UNet"
    elif isinstance(settings, GsSettings) and isinstance(base, GsSettings):
        passes, own = (each.samples * each.steps * each.predictions for each in (settings, base))
        passes, most, unit = passes * count, MOST_PREDICTIONS, "label denoiser"
    else:
        return
    if passes > max(own, most):
        asked = "masks" if isinstance(settings, G4SegSettings) else "phrases"
        raise SettingsError(
            expected=f"a request with at most {max(own, most)} passes of the {unit}",
            got=f"{passes} for {count} {asked}",
            hint=f"send fewer {asked} in one request, or choose a preset such as fast",
        )


class RefineParameters(Parameters):
    """Parameters of refining besides pictures."""

    label: Annotated[list[Text], BeforeValidator(_as_list), Field(min_length=1, max_length=MOST_LABELS)] = Field(
        description="What the mask shows, such as fox. Once for each mask, in their order.", examples=["fox"]
    )
    box: Annotated[list[Box], BeforeValidator(_read_boxes)] = Field(
        [], description="Instead of a mask: a box around the object, left,top,right,bottom in pixels. Can be repeated."
    )
    point: Annotated[list[Point], BeforeValidator(_read_points)] = Field(
        [], description="Instead of a mask: a point on the object, x,y in pixels, or x,y,0 off it. Can be repeated."
    )
    guard: bool = Field(True, description="Undo changes that cannot be trusted.")
    crop: bool = Field(True, description="Refine an object under 1 % of the image in a crop around it.")
    maps: list[Literal["probability", "paper_probability", "overlay", "cutout", "rounds", "label_map"]] = Field(
        [],
        description="What to give besides the mask. Overlay, cutout (the objects on a transparent background) and "
        "label_map come once, the others for each mask.",
    )

    def count(self) -> int:
        """See `Parameters`."""
        return len(self.label)

    def pixel_bytes(self) -> int:
        """See `Parameters`."""
        soft = len(self.label) * _BYTES[self.soft_format]
        return sum(_BYTES.get(name, soft) for name in self.maps)


class SegmentParameters(Parameters):
    """Parameters of segmenting besides the picture."""

    phrases: list[Text] = Field([], max_length=MOST_PHRASES, description="What to look for.", examples=[["the fox"]])
    caption: Text | None = Field(None, description="Instead of phrases: a sentence, whose noun phrases they are.")
    classes: Annotated[
        InstanceOf[ClassList] | None, BeforeValidator(_read_classes), WithJsonSchema(_CLASSES_SCHEMA)
    ] = Field(
        None,
        description=f"Instead of phrases: a class list ({', '.join(CLASS_LISTS)}), or a JSON list of names or names by "
        "index. Index 0 is the background. Gives `label_map` with the indices of the classes in the image; classes "
        "that are not found are left out.",
    )
    samples: int | None = Field(
        None, ge=1, le=MOST_SAMPLES, description="Masks drawn for each phrase.  [default: the model's]"
    )
    steps: int | None = Field(None, ge=1, le=MOST_STEPS, description="Of the sampler; the model's, if none.")
    sampler: SamplerName | None = Field(None, description="How masks are sampled.  [default: the model's]")
    guidance_scale: float | None = Field(None, ge=0, le=100, description="Guidance by the phrase; 1 is none.")
    image_guidance_scale: float | None = Field(None, ge=0, le=100, description="Guidance by the image; 1 is none.")
    edges: bool | None = Field(None, description="Whether borders are moved to the image's edges.")
    maps: list[Literal["probability", "uncertainty", "label_map", "overlay", "cutout"]] = Field(
        [], description="What to give besides the masks; uncertainty takes two samples or more."
    )

    @model_validator(mode="after")
    def _check_phrases(self) -> SegmentParameters:
        given = [name for name in ("phrases", "caption", "classes") if getattr(self, name) not in (None, [])]
        if len(given) != 1:
            raise PromptError(
                expected="one of the fields phrases, caption and classes", got=" and ".join(given) or "none of them",
                hint="leave the others out" if given else "such as curl -F 'phrases=the fox'",
            )  # fmt: skip
        return self

    def named(self) -> list[str]:
        """Return the phrases; those of the caption, which know it; or what is asked for each class."""
        if self.classes is not None:
            return [self.classes.prompt_of(name) for name in self.classes.names.values()]
        return self.phrases if self.caption is None else [*read_caption(self.caption)]

    def count(self) -> int:
        """See `Parameters`."""
        return len(self.named())

    def check_maps(self, settings: Settings) -> None:
        """See `Parameters`."""
        if "uncertainty" in self.maps and isinstance(settings, ZeroShotSettings):
            raise SettingsError(
                expected="maps other than uncertainty, which is the spread of samples",
                got="zero-shot segmentation, which draws none",
                hint="leave uncertainty out, or choose a label diffusion model",
            )

    def given_maps(self) -> set[str]:
        """Return the maps of the answer: those that were asked for, and the label map of a class list."""
        return {*self.maps, *(["label_map"] if self.classes else [])}

    def indices_of(self, phrases: Iterable[str]) -> list[int]:
        """Return what phrases are called in the label map: their places from 1, or the indices of their classes."""
        if self.classes is None:
            return [number for number, _ in enumerate(phrases, 1)]
        indices = dict(zip(self.named(), self.classes.names, strict=True))
        return [indices[phrase] for phrase in phrases]

    def pixel_bytes(self) -> int:
        """See `Parameters`."""
        soft = len(self.named()) * _BYTES[self.soft_format]
        return sum(_BYTES.get(name, soft) for name in self.given_maps())

    def changes(self) -> dict[str, Any]:
        """See `Parameters`; fields of their own win over `settings`."""
        names = ("samples", "steps", "sampler", "guidance_scale", "image_guidance_scale", "edges")
        return self.settings | {name: value for name in names if (value := getattr(self, name)) is not None}


ParametersT = TypeVar("ParametersT", bound=Parameters)
