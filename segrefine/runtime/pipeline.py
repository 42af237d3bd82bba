"""The whole of G4Seg on engines: a coarse mask in, a sharp mask out. Start reading here.

`Refiner.__call__` is the method (arXiv 2506.01539; `docs/method.md`): encode the image and the label; ask how well the
label explains each pixel; then, in rounds, generate the image under the mask, compare it with the original, and move
the mask where the two disagree; at last let the border follow the image's edges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segrefine.bundle import Bundle
from segrefine.engines import Engine
from segrefine.runtime.denoiser import Conditions, Denoiser, Observe
from segrefine.runtime.edges import EdgeSettings, logit, sharpen
from segrefine.runtime.engine_set import EngineSet, Progress, Watch, check_finite, text_encoders
from segrefine.runtime.evidence import gather_evidence
from segrefine.runtime.filters import pool
from segrefine.runtime.grid import FittedImage
from segrefine.runtime.image import check_image
from segrefine.runtime.mask import check_mask
from segrefine.runtime.prompt import build_prompt
from segrefine.runtime.schedule import NoiseSchedule
from segrefine.runtime.text import pick_texts
from segrefine.settings import G4SegSettings

Floats = NDArray[np.float32]
COMPONENTS = ("vae_encoder", "vae_decoder", "unet", "unet_features", "alignment")


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round of refinement computed, on the latent grid (h, w).

    Attributes:
        timestep: noise level of the generation.
        generated: float32 (1, c, h, w) latents of the mask-conditional image.
        discrepancy: float32 (h, w); how much each pixel disagrees with the generation.
        probability: float32 (h, w) foreground probability after the round, in [0, 1].
    """

    timestep: int
    generated: Floats
    discrepancy: Floats
    probability: Floats


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """A refined mask.

    Attributes:
        mask: bool (H, W), at the image's size.
        probability: float32 (H, W) foreground probability in [0, 1], after the edge step (ours).
        paper_probability: float32 (H, W), before the edge step (the paper's result), resized from the latent grid.
        latents: float32 (1, c, h, w) of the image.
        text_evidence: float32 (h, w); how much better the label explains each pixel than no label does.
        rounds: the trace.
        seconds: time of each stage.
    """

    mask: NDArray[np.bool_]
    probability: Floats
    paper_probability: Floats
    latents: Floats
    text_evidence: Floats
    rounds: tuple[Round, ...]
    seconds: Mapping[str, float] = field(repr=False)


class Refiner(EngineSet[G4SegSettings]):
    """Refines coarse masks with the engines of one bundle; a context manager that closes them.

    Attributes:
        bundle: where the engines come from.
        settings: the method's numbers.
        edges: the edge step's numbers.
    """

    method = "g4seg"

    def __init__(
        self,
        bundle: Bundle,
        engines: Mapping[str, Engine],
        *,
        settings: G4SegSettings | None = None,
        edges: EdgeSettings | None = None,
    ) -> None:
        super().__init__(bundle, engines)
        self.settings = s = settings or G4SegSettings.from_dict(bundle.manifest.settings)
        self.edges = edges or EdgeSettings()
        self._schedule = NoiseSchedule.from_config(bundle.read_json("scheduler/scheduler_config.json"))
        self._schedule.check_timesteps((*s.timesteps, *s.text_timesteps, s.feature_timestep))

    @classmethod
    def components(cls, bundle: Bundle) -> Sequence[str]:
        """The components that refining takes."""
        return (*text_encoders(bundle), *COMPONENTS)

    def __call__(
        self,
        image: NDArray[np.uint8],
        mask: Floats,
        label: str,
        *,
        seed: int = 0,
        progress: Progress | None = None,
        observe: Observe | None = None,
    ) -> Refinement:
        """The refined mask.

        Args:
            image: uint8 (H, W, 3) RGB, any size.
            mask: float (H, W) coarse foreground probability in [0, 1], at the image's size.
            label: what the mask shows, such as "fox".
            seed: of the noise; the same seed gives the same mask on every backend, up to rounding.
            progress: told of every stage.
            observe: told of the latents of every step of generation.

        Raises:
            ImageError: the image is no uint8 array (H, W, 3).
            MaskError: no floating-point array, another size than the image, or nothing to refine.
            PromptError: the label is empty or too long.
            NumericalError: an engine gave a value that is not finite.
        """
        s, watch = self.settings, Watch(progress, steps=4 + 2 * len(self.settings.timesteps))
        check_image(image)
        check_mask(mask, image.shape[:2])
        fit = self.fit(image)
        coarse = probability = pool(fit.apply(mask), self.bundle.manifest.vae_scale_factor)
        denoiser = Denoiser(
            engines=self.engines,
            schedule=self._schedule,
            settings=s,
            conditions=self._encode_label(label, fit),
            observe=observe,
        )
        z0 = self.encode_image(fit.image)
        noise = np.random.default_rng(seed).standard_normal((s.noises, *z0.shape[1:]), np.float32)
        watch.step("encode")
        text = denoiser.text_evidence(z0, coarse, noise)
        evidence = gather_evidence(fit.image, coarse, text, s)
        watch.step("text evidence")
        original = denoiser.features(z0, noise)
        watch.step("features")
        rounds = []
        for t, width in zip(s.timesteps, s.confusion, strict=True):
            generated = denoiser.generate(z0, probability, t, noise)
            watch.step("generate")
            features = denoiser.features(generated, noise)
            discrepancy, probability = self._align(original, features, probability, evidence, width)
            watch.step("align")
            rounds.append(Round(timestep=t, generated=generated, discrepancy=discrepancy, probability=probability))
        sharp = sharpen(image, mask, fit.restore(logit(probability) - logit(coarse)), self.edges)
        watch.step("edges")
        return Refinement(
            mask=sharp > 0.5,
            probability=sharp,
            paper_probability=fit.restore(probability),
            latents=z0,
            text_evidence=text,
            rounds=tuple(rounds),
            seconds=watch.seconds,
        )

    def decode(self, latents: Floats) -> NDArray[np.uint8]:
        """The picture of latents (1, c, h, w), uint8 (h·f, w·f, 3); for looking at a round's `generated`."""
        return np.asarray(
            np.round((self.decode_image(latents)[0].transpose(1, 2, 0).clip(-1, 1) + 1) * 127.5), np.uint8
        )

    def _encode_label(self, label: str, fit: FittedImage) -> Conditions:
        prompt = build_prompt(self.tokenizer, label, template=self.settings.template)
        ids = np.concatenate([prompt.input_ids, self.tokenizer("")])
        texts = self.encode_text(ids, fit.grid)
        named, nothing = pick_texts(texts, np.s_[:1]), pick_texts(texts, np.s_[1:])
        return Conditions(label=named, nothing=nothing, token_indicator=prompt.token_indicator)

    def _align(
        self, original: Floats, generated: Floats, probability: Floats, evidence: Floats, width: float
    ) -> tuple[Floats, Floats]:
        s = self.settings
        feeds = {
            "features_original": original,
            "features_generated": generated,
            "foreground": probability[None, None],
            "evidence": evidence[None, None].astype(np.float32),
            "parameters": np.array([[s.temperature, s.mixing, width, s.position_weight]], np.float32),
        }
        outputs = self.engines["alignment"](feeds)
        discrepancy, updated = (
            check_finite(outputs[name], "alignment", name)[0, 0] for name in ("discrepancy", "probability")
        )
        return discrepancy, updated
