"""The models of a service: requests in, answers out."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, ParamSpec, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from segrefine.assets import VOCABULARIES, Vocabulary
from segrefine.bundle import Method
from segrefine.engines import Closing, Engine
from segrefine.presets import PRESETS
from segrefine.runtime.batching import Company, PhraseBatching, PhraseRequest
from segrefine.runtime.engine_set import EngineSet, PipelineSetup
from segrefine.runtime.files.image import describe_turn, load_image
from segrefine.runtime.files.marks import Marks, coarse_from_marks, read_scribble
from segrefine.runtime.files.mask import CoarseMask, load_mask
from segrefine.runtime.memory import Memory, remember
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.segmentation import Segmentation
from segrefine.runtime.segmenter import Segmenter
from segrefine.serve.answers import leave_out_absent, refine_answer, segment_answer
from segrefine.serve.inputs import Pictures, telling_of
from segrefine.serve.limits import MIB
from segrefine.serve.parameters import RefineParameters, SegmentParameters
from segrefine.serve.stopping import StoppableEngine, Stopped, stoppable
from segrefine.serve.work import Answer, Work
from segrefine.settings import G4SegSettings, GsSettings

PipelineT = TypeVar("PipelineT", bound=EngineSet[Any])
Arguments = ParamSpec("Arguments")
Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class Served:
    """Description of a served model.

    Attributes:
        name: by which requests choose it.
        backend: what runs its graphs.
        device: where.
        precision: what they compute in.
        shipped: its word, where it is one of those that ship with segrefine.
    """

    name: str
    backend: str
    device: str
    precision: str
    shipped: str | None = None

    @property
    def vocabulary(self) -> Vocabulary | None:
        """Return the words the model knows; None for a model that does not ship with segrefine."""
        return VOCABULARIES[self.shipped] if self.shipped else None


class ServedModel(Closing, Generic[PipelineT]):
    """A pipeline behind the service.

    Attributes:
        served: its name and what it runs on.
        pipeline: what computes.
        memory: what it knows of images that came before; None: nothing is kept.
    """

    def __init__(self, pipeline: PipelineT, served: Served, memory: Memory | None = None) -> None:
        engines: Mapping[str, Engine] = {name: StoppableEngine(each) for name, each in pipeline.engines.items()}
        self.pipeline = pipeline.derive(engines if memory is None else remember(engines, memory))
        self.served, self.memory = served, memory

    @property
    def names(self) -> tuple[str, ...]:
        """The names by which a request may choose the model; the first is the one that answers have."""
        return (self.served.name,)

    @abstractmethod
    def company(self, work: Work) -> Company | None:
        """Return the key of requests that are computed together; None if this one is computed alone."""

    @abstractmethod
    def warm_up(self) -> None:
        """Computes something small, so that the first request finds everything in its place."""

    @abstractmethod
    def _compute(self, works: Sequence[Work]) -> Mapping[Work, Answer | Exception]:
        """The answer, or the error, of each request of one key; none for one that nobody waits for any more."""

    def run(self, works: Sequence[Work]) -> list[Answer | Exception]:
        """The answer, or the error, of each request; called on a worker's thread."""
        wanted = [work for work in works if not work.unwanted]
        with stoppable(lambda: all(work.unwanted for work in wanted)):
            answers = self._compute(wanted)
        return [answers.get(work, Stopped()) for work in works]

    def describe(self) -> dict[str, Any]:
        """The model as JSON values."""
        manifest = self.pipeline.bundle.manifest
        return {
            "name": self.served.name,
            "method": self.pipeline.settings.method,
            "endpoint": "/v1/segment" if isinstance(self, PhraseModel) else "/v1/refine",
            "backend": self.served.backend,
            "device": self.served.device,
            "precision": self.served.precision,
            "image_side": manifest.sample_size * manifest.vae_scale_factor,
            "settings": self.pipeline.settings.to_dict(),
            "presets": list(PRESETS[self.pipeline.settings.method]),
            "words": list(self.served.vocabulary.labels) if self.served.vocabulary else None,
        }

    def close(self) -> None:
        """Closes the engines."""
        self.pipeline.close()


class RefineModel(ServedModel[Refiner]):
    """G4Seg. Its denoiser already sees a batch for each request, so that requests are computed one at a time."""

    def company(self, work: Work) -> Company | None:
        """None: nothing is gained; `benchmarks/soak.py` measures it."""
        return None

    def warm_up(self) -> None:
        """Refines a square in a grey image."""
        side = self.pipeline.bundle.manifest.sample_size * self.pipeline.bundle.manifest.vae_scale_factor
        image, mask = np.full((side, side, 3), 128, np.uint8), np.zeros((side, side), np.float32)
        mask[side // 4 : side // 2, side // 4 : side // 2] = 1
        self.pipeline(image, mask, "fox")

    def _compute(self, works: Sequence[Work]) -> dict[Work, Answer | Exception]:
        return {work: attempt(self._refine, work) for work in works}

    def _refine(self, work: Work) -> Answer:
        began, parameters = time.perf_counter(), cast(RefineParameters, work.parameters)
        image, coarse = read_pictures(work.pictures, parameters)
        read = time.perf_counter() - began
        results = self.pipeline(
            image, list(zip(parameters.label, coarse, strict=True)), crop=parameters.crop, guard=parameters.guard,
            settings=cast(G4SegSettings, work.settings), seed=parameters.seed, progress=work.tell,
        )  # fmt: skip
        answer = _told_of_turn(refine_answer(image, results, self.pipeline.decode, work), work, image)
        vocabulary = self.served.vocabulary
        if vocabulary and not {label.strip().casefold() for label in parameters.label} <= set(vocabulary.labels):
            answer = _warned(answer, f"{self.served.shipped} knows only {', '.join(vocabulary.labels)}")
        return replace(answer, seconds={"read": read, **answer.seconds})


class PhraseModel(ServedModel[PipelineT]):
    """Model that finds phrases in an image."""

    def answer(self, image: NDArray[np.uint8], result: Segmentation, work: Work) -> Answer:
        """The answer for the masks of phrases, with warnings about the image and the words."""
        result = leave_out_absent(result, work)
        answer = _told_of_turn(segment_answer(image, result, work), work, image)
        vocabulary = self.served.vocabulary
        if vocabulary and (unknown := vocabulary.unknown(each.phrase for each in result.segments)):
            answer = _warned(answer, f"{self.served.shipped} does not know {', '.join(map(repr, unknown))}")
        return answer


class SegmentModel(PhraseModel[Segmenter]):
    """GS. The phrases of requests on images of one shape are one batch of its denoiser."""

    def __init__(self, pipeline: Segmenter, served: Served, memory: Memory | None = None) -> None:
        super().__init__(pipeline, served, memory)
        self._batching = PhraseBatching(self.pipeline)

    def company(self, work: Work) -> Company | None:
        """See `PhraseBatching.company`."""
        parameters, (height, width) = _parameters(work), work.pictures.size
        if not height * width:  # no picture, which is told when it is read
            return None
        count = len(parameters.named())
        return self._batching.company((height, width), count, parameters.seed, _gs_settings(work))

    def warm_up(self) -> None:
        """Segments a grey image."""
        side = self.pipeline.bundle.manifest.sample_size * self.pipeline.bundle.manifest.vae_scale_factor
        self.pipeline(np.full((side, side, 3), 128, np.uint8), ["the fox"])

    def _compute(self, works: Sequence[Work]) -> dict[Work, Answer | Exception]:
        began = time.perf_counter()
        images: dict[bytes, NDArray[np.uint8] | Exception] = {}
        for work in works:
            if (content := work.pictures.image) not in images:
                images[content] = attempt(load_picture, work.pictures)
        read = time.perf_counter() - began
        answers: dict[Work, Answer | Exception] = {}
        asked: dict[Work, PhraseRequest] = {}
        for work in works:
            image = images[work.pictures.image]
            if isinstance(image, Exception):
                answers[work] = image
            else:
                asked[work] = _phrase_request(work, image)
        for (work, request), result in zip(asked.items(), self._batching.run(list(asked.values())), strict=True):
            if isinstance(result, Exception):
                answers[work] = result
            else:
                answers[work] = attempt(self._answer, request.image, result, work, read)
        return answers

    def _answer(self, image: NDArray[np.uint8], result: Segmentation, work: Work, read: float) -> Answer:
        answer = self.answer(image, result, work)
        return replace(answer, seconds={"read": read, **answer.seconds})


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A model that is to be served, before it is opened; may be sent to another process.

    Attributes:
        served: what will be known of it.
        method: of its bundle.
        setup: what opens its pipeline.
        memory_mib: most that it keeps of images for later requests, in MiB; 0 keeps nothing.
        memory_seconds: how long it keeps what nobody asks for again.
    """

    served: Served
    method: Method
    setup: PipelineSetup
    memory_mib: float = 0.0
    memory_seconds: float = 600.0

    def open(self) -> RefineModel | SegmentModel:
        """The model; the caller closes it.

        Raises:
            SegrefineError: see `EngineSet.from_setup`.
        """
        memory = Memory(int(self.memory_mib * MIB), self.memory_seconds) if self.memory_mib else None
        if self.method == "g4seg":
            return RefineModel(Refiner.from_setup(self.setup), self.served, memory)
        return SegmentModel(Segmenter.from_setup(self.setup), self.served, memory)


def read_pictures(
    pictures: Pictures, parameters: RefineParameters
) -> tuple[NDArray[np.uint8], Sequence[NDArray[np.float32] | CoarseMask]]:
    """The image of a request to refine, uint8 (H, W, 3), and its coarse masks, one for each label.

    Raises:
        ImageError: a picture cannot be read.
        MaskError: a mask is none, or does not fit the image.
    """
    image = load_picture(pictures)
    return image, _read_coarse(image, pictures, parameters)


def _read_coarse(
    image: NDArray[np.uint8], pictures: Pictures, parameters: RefineParameters
) -> Sequence[NDArray[np.float32] | CoarseMask]:
    """The coarse masks of a request, one for each label; or that which its marks amount to."""
    size = image.shape[0], image.shape[1]
    if not pictures.masks:
        strokes = None
        if pictures.scribble:
            with telling_of("scribble"):
                strokes = read_scribble(pictures.scribble, size)
        return [coarse_from_marks(image, Marks(boxes=parameters.box, points=parameters.point, scribble=strokes))]
    coarse = []
    for number, content in enumerate(pictures.masks, 1):
        with telling_of("mask" if len(pictures.masks) == 1 else f"mask {number}"):
            coarse.append(load_mask(content, size))
    return coarse


def load_picture(pictures: Pictures) -> NDArray[np.uint8]:
    """The image of a request, uint8 (H, W, 3); errors name its field."""
    with telling_of("image"):
        return load_image(pictures.image, max_megapixels=pictures.max_megapixels)


def _phrase_request(work: Work, image: NDArray[np.uint8]) -> PhraseRequest:
    asked = _parameters(work)
    return PhraseRequest(
        image=image, phrases=asked.named(), seed=asked.seed, settings=_gs_settings(work), progress=work.tell
    )


def attempt(make: Callable[Arguments, Made], *given: Arguments.args, **named: Arguments.kwargs) -> Made | Exception:
    """Call a function, and return its result or its error. Any error answers one request only."""
    try:
        return make(*given, **named)
    except Exception as error:
        return error


def _parameters(work: Work) -> SegmentParameters:
    return cast(SegmentParameters, work.parameters)


def _gs_settings(work: Work) -> GsSettings:
    return cast(GsSettings, work.settings)


def _told_of_turn(answer: Answer, work: Work, image: NDArray[np.uint8]) -> Answer:
    """The answer with a word on an EXIF orientation that the image's size does not show."""
    turn = describe_turn(work.pictures.image)
    if turn is None or work.pictures.size != image.shape[:2]:
        return answer
    return _warned(answer, f"the image is {turn}, as its EXIF orientation says; masks are of the turned picture")


def _warned(answer: Answer, warning: str) -> Answer:
    return replace(answer, values={**answer.values, "warnings": [*answer.values["warnings"], warning]})
