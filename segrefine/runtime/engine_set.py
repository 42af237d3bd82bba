"""Engines of one bundle, opened and closed together; the pipelines of both methods share them."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from segrefine.bundle import Bundle, Method
from segrefine.bundle_sources import find_bundle, local_bundle
from segrefine.engines import Closing, Engine, EngineOptions, EnginePrecision, choose_backend, load_engines
from segrefine.errors import NumericalError, SettingsError
from segrefine.runtime.imaging.grid import FittedImage, fit_to_grid, size_on_grid
from segrefine.runtime.imaging.tiling import map_tiles
from segrefine.runtime.words.text import Text, size_condition
from segrefine.runtime.words.tokenizer import ClipTokenizer
from segrefine.settings import Changes, Settings

if TYPE_CHECKING:
    from typing import Self

Floats = NDArray[np.float32]
SettingsT = TypeVar("SettingsT", bound=Settings)
_LOGGER = logging.getLogger(__name__)
Progress = Callable[[str, float], None]
"""Called with what is being done and the share of the work that is behind, in [0, 1]."""

LATENT_MULTIPLE = 8
"""Sides of a latent are multiples of this: Stable Diffusion's UNet halves them three times."""
LARGEST_SCALE = 16
"""Largest resolution, in multiples of the trained one: a slip of the hand must not take all memory."""


@dataclass(frozen=True, kw_only=True)
class PipelineSetup:
    """Setup that opens a pipeline, also in another process.

    Attributes:
        bundle: folder that `segrefine export` wrote, or "photo" or "photo-gs".
        engines: how the bundle's engines run.
        settings: other settings than the bundle's; a dict changes some of them, a text names a preset.
    """

    bundle: str | Path
    engines: EngineOptions = field(default_factory=EngineOptions)
    settings: Settings | Changes | None = None


class EngineSet(Closing, Generic[SettingsT]):
    """The engines of one bundle; a context manager that closes them.

    Attributes:
        method: of the bundles that this is for.
        seldom: components that few calls need, see `load_engines`.
        bundle: where the engines come from.
        engines: by the names of their components.
        settings: the method's numbers, for calls that give none.
        resolution: pixels on the longer side of an image as the model sees it.
    """

    method: ClassVar[Method]
    seldom: ClassVar[Sequence[str]] = ()
    settings: SettingsT

    @abstractmethod
    def __init__(
        self,
        bundle: Bundle,
        engines: Mapping[str, Engine],
        *,
        settings: SettingsT | Changes | None = None,
        resolution: int | None = None,
    ) -> None:
        self.bundle = bundle
        self.engines = engines
        trained = bundle.manifest.sample_size * bundle.manifest.vae_scale_factor
        self.resolution = trained if resolution is None else _check_resolution(resolution, bundle, trained)
        self._tokenizers = _read_tokenizers(bundle)

    @classmethod
    @abstractmethod
    def components(cls, bundle: Bundle) -> Sequence[str]:
        """The components that are needed."""

    @classmethod
    def from_bundle(
        cls,
        path: str | Path,
        *,
        backend: str = "auto",
        device: str = "cpu",
        precision: EnginePrecision | None = None,
        threads: int | None = None,
        resolution: int | None = None,
        low_memory: bool | None = None,
        settings: SettingsT | Changes | None = None,
    ) -> Self:
        """Open a pipeline on the bundle at `path`.

        Args:
            path: folder that `segrefine export` wrote, or "photo" or "photo-gs".
            backend: what runs the graphs; a name in `segrefine.engines.BACKENDS`, or "auto" for the best one here.
            device: `cpu`, or `cuda:0` where the backend has it.
            precision: None for the graphs' own; ``"bf16"`` for a faster denoiser, on a backend that can.
            threads: of the CPU; None for all cores.
            resolution: pixels on the longer side of an image as the model sees it; None for what it was trained on.
            low_memory: whether of the large engines only the one in use is loaded, which takes longer; None does so
                where the memory that is free is too little for all of them.
            settings: other settings than the bundle's; a dict changes some of them, a text names a preset.

        Raises:
            BundleError: no bundle there, a damaged one, or one of the other method.
            BackendError: unknown backend, or the device is not there.
            SettingsError: the bundle or the backend has another precision; or the resolution is less than one cell, or
                more than `LARGEST_SCALE` times the trained one.
        """
        engines = EngineOptions(
            backend=backend, device=device, precision=precision, threads=threads, resolution=resolution,
            low_memory=low_memory,
        )  # fmt: skip
        return cls.from_setup(PipelineSetup(bundle=path, engines=engines, settings=settings))

    @classmethod
    def from_setup(cls, setup: PipelineSetup) -> Self:
        """Open a pipeline.

        Args:
            setup: the bundle, how its engines run, and the settings.

        Raises:
            SegrefineError: see `from_bundle`.
        """
        began = time.perf_counter()
        bundle = Bundle.open(local_bundle(setup.bundle))
        chosen = setup.engines
        bundle.check_method(cls.method)
        names = cls.components(bundle)
        backend = choose_backend(chosen.backend, bundle.path, chosen.device, chosen.precision)
        engines = load_engines(
            bundle, names, backend, device=chosen.device, precision=chosen.precision, threads=chosen.threads,
            low_memory=chosen.low_memory, seldom=cls.seldom,
        )  # fmt: skip
        with ExitStack() as stack:
            for engine in engines.values():
                stack.enter_context(engine)
            settings = cast("SettingsT | Changes | None", setup.settings)
            opened = cls(bundle, engines, settings=settings, resolution=chosen.resolution)
            stack.pop_all()
        spent = time.perf_counter() - began
        _LOGGER.info("opened %s in %.2f s: backend %s, device %s", bundle.path, spent, backend, chosen.device)
        return opened

    @classmethod
    def from_pretrained(
        cls,
        bundle: str | Path,
        *,
        revision: str | None = None,
        backend: str = "auto",
        device: str = "cpu",
        precision: EnginePrecision | None = None,
        threads: int | None = None,
        resolution: int | None = None,
        low_memory: bool | None = None,
        settings: SettingsT | Changes | None = None,
    ) -> Self:
        """Open a pipeline on a bundle of the model hub, which is fetched into the hub's cache first.

        Args:
            bundle: a hub id `OWNER/NAME`, or what `from_bundle` takes.
            revision: branch, tag or commit of the hub id; None is the newest.
            backend: as for `from_bundle`, like the arguments after it.
            device: see there.
            precision: see there.
            threads: see there.
            resolution: see there.
            low_memory: see there.
            settings: see there.

        Raises:
            BundleError: there is no such bundle, or it cannot be fetched.
            MissingDependencyError: huggingface-hub is not installed.
            SegrefineError: see `from_bundle`.
        """
        return cls.from_bundle(
            find_bundle(bundle, revision),
            backend=backend,
            device=device,
            precision=precision,
            threads=threads,
            resolution=resolution,
            low_memory=low_memory,
            settings=settings,
        )

    def derive(
        self,
        engines: Mapping[str, Engine] | None = None,
        *,
        settings: SettingsT | Changes | None = None,
        resolution: int | None = None,
    ) -> Self:
        """A second pipeline on the same bundle. It shares the engines that are not replaced: close one of the two.

        Args:
            engines: other engines for some components.
            settings: see `from_bundle`; a dict changes some of `self.settings`.
            resolution: see `from_bundle`.  [default: `self.resolution`]

        Raises:
            SettingsError: a setting or the resolution is wrong.
        """
        return type(self)(
            self.bundle,
            {**self.engines, **(engines or {})},
            settings=self.settings.change(settings),
            resolution=self.resolution if resolution is None else resolution,
        )

    def fit(self, image: NDArray[np.uint8]) -> FittedImage:
        """The image on the model's grid."""
        return fit_to_grid(image, side=self.resolution, multiple=self._multiple)

    def grid_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size (height, width) on the model's grid of an image of `size`, in pixels."""
        return size_on_grid(size, side=self.resolution, multiple=self._multiple)[1]

    @property
    def _multiple(self) -> int:
        return LATENT_MULTIPLE * self.bundle.manifest.vae_scale_factor

    def encode_image(self, image: NDArray[np.uint8]) -> Floats:
        """Scaled latents, float32 (1, c, h, w), of an image on the model's grid, uint8 (H, W, 3)."""
        return self.encode_images(image[None])

    def encode_images(self, images: NDArray[np.uint8]) -> Floats:
        """Scaled latents, float32 (I, c, h, w), of images on the model's grid, uint8 (I, H, W, 3)."""
        sample = images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
        encode = partial(self._run_codec, "vae_encoder", "sample", "latent_sample")
        return map_tiles(encode, sample, per_latent=(self.bundle.manifest.vae_scale_factor, 1))

    def decode_image(self, latents: Floats) -> Floats:
        """Images, float32 (B, 3, H, W) in about [-1, 1], of scaled latents (B, c, h, w)."""
        decode = partial(self._run_codec, "vae_decoder", "latent_sample", "sample")
        return map_tiles(decode, latents, per_latent=(1, self.bundle.manifest.vae_scale_factor))

    def _run_codec(self, component: str, given: str, made: str, values: Floats) -> Floats:
        return check_finite(self.engines[component]({given: values})[made], component, made)

    @property
    def tokenizer(self) -> ClipTokenizer:
        """Return the tokenizer, which turns texts into token ids."""
        return self._tokenizers["text_encoder"]

    def encode_text(self, ids: NDArray[np.int64], size: tuple[int, int]) -> Text:
        """Encode texts for the denoiser.

        Args:
            ids: int64 (B, tokens), of `tokenizer`.
            size: (height, width) of the image on the model's grid, in pixels.
        """
        states, pooled = [], {}
        for name, tokenizer in self._tokenizers.items():
            outputs = self.engines[name]({"input_ids": tokenizer.repad(ids)})
            for values in outputs.values():
                check_finite(values, name, "prompt")
            states.append(outputs[self.engines[name].spec.outputs[0].name])
            if "text_embeds" in outputs:
                pooled = {"text_embeds": outputs["text_embeds"], "time_ids": size_condition(size, len(ids))}
        return {"encoder_hidden_states": np.concatenate(states, -1), **pooled}

    def close(self) -> None:
        """Closes the engines."""
        for engine in self.engines.values():
            engine.close()


def _check_resolution(resolution: int, bundle: Bundle, trained: int) -> int:
    least, most = LATENT_MULTIPLE * bundle.manifest.vae_scale_factor, LARGEST_SCALE * trained
    if not isinstance(resolution, int) or not least <= resolution <= most:
        hint = f"the model was trained on {trained} pixels; far from them it sees little"
        raise SettingsError(subject="resolution", expected=f"{least} to {most} pixels", got=repr(resolution), hint=hint)
    return resolution


def text_encoders(bundle: Bundle) -> tuple[str, ...]:
    """The text encoders of a bundle, in the order in which their states are joined."""
    return tuple(name for name in ("text_encoder", "text_encoder_2") if name in bundle.manifest.graphs)


def _read_tokenizers(bundle: Bundle) -> dict[str, ClipTokenizer]:
    """The tokenizer of each text encoder."""
    folders = {name: name.replace("text_encoder", "tokenizer") for name in text_encoders(bundle) or ("text_encoder",)}
    return {
        name: ClipTokenizer.from_folder(bundle.file(f"{folder}/tokenizer.json").parent, bundle.manifest.tokens)
        for name, folder in folders.items()
    }


def check_seed(seed: int) -> None:
    """Check a random seed.

    Raises:
        SettingsError: it is no whole number of 0 or more.
    """
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise SettingsError(subject="seed", expected="a whole number of 0 or more", got=repr(seed))


class Watch:
    """Measures the stages and tells of them.

    Attributes:
        seconds: time of each stage so far.
    """

    def __init__(self, progress: Progress | None, steps: int) -> None:
        self.seconds: dict[str, float] = {}
        self._progress, self._steps, self._done, self._last = progress, steps, 0, time.perf_counter()

    def step(self, stage: str) -> None:
        """The stage has just ended."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last, self._done = now, self._done + 1
        if self._progress:
            self._progress(stage, self._done / self._steps)


def check_finite(values: Floats, component: str, step: str) -> Floats:
    """`values`, once all of them are finite.

    Raises:
        NumericalError: names the component and the step.
    """
    if not np.isfinite(values).all():
        hint = (
            "segrefine parity BUNDLE --reference MODEL --locate names the tensor; of a bundle in half precision, "
            "--fp32-components exports the graph in single"
        )
        raise NumericalError(f"it gave a value that is not finite ({step})", subject=component, hint=hint)
    return values
