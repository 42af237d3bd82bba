"""The label denoiser of GS under images and phrases: what a sampler calls, with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.engines import Engine, cut_batch
from segrefine.runtime.engine_set import check_finite
from segrefine.runtime.schedule import Array
from segrefine.runtime.words.text import Text, join_texts, repeat_texts
from segrefine.settings import GsSettings
from segrefine.spec import MAX_PIXELS

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class GuidedDenoiser:
    """The label denoiser under images and phrases; called by a sampler.

    Attributes:
        engine: `label_denoiser`.
        settings: the method's numbers.
        image_latents: float32 (I, c, h, w).
        owners: (B,), the image of each sample.
        nothing: the empty phrase; not read without guidance.
        named: each sample's phrase.
    """

    engine: Engine
    settings: GsSettings
    image_latents: Floats
    owners: NDArray[np.intp]
    nothing: Text
    named: Text

    def __call__(self, sample: Array, timestep: int) -> Floats:
        """The output for label latents (B, C, h, w), with classifier-free guidance by image and phrase.

        ε = ε(∅, ∅) + s_image (ε(z, ∅) − ε(∅, ∅)) + s_text (ε(z, text) − ε(z, ∅)); terms of weight 0 are left out.
        """
        s_text, s_image = self.settings.guidance_scale, self.settings.image_guidance_scale
        z = self.image_latents[self.owners]
        if s_text == s_image == 1:
            return self._predict(timestep, [sample], [z], [self.named])
        rows, place = self._distinct(sample)
        nothing = repeat_texts(self.nothing, len(rows))
        terms = [(s_text, sample, z, self.named)]
        if s_image != s_text:
            terms.append((s_image - s_text, sample[rows], z[rows], nothing))
        if s_image != 1:
            terms.append((1 - s_image, sample[rows], np.zeros_like(z[rows]), nothing))
        output = self._predict(timestep, *zip(*(term[1:] for term in terms), strict=True))
        ends, guided = np.cumsum([len(term[1]) for term in terms])[:-1], np.zeros(sample.shape, np.float32)
        for (weight, *_), part in zip(terms, np.split(output, ends), strict=True):
            guided += np.float32(weight) * (part if len(part) == len(sample) else part[place])
        return check_finite(guided, "guidance", f"t={timestep}")

    def _distinct(self, sample: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows that stand for all where only the phrase differs, and for each sample which of these stands for it.

        They are the samples of each image's first phrase, while all of its phrases have the same latents, as before
        the first step; later, every row.
        """
        count = self.settings.samples
        _, first, image = np.unique(self.owners, return_index=True, return_inverse=True)
        rows = (first[:, None] + np.arange(count)).ravel()
        place = image * count + np.arange(len(sample)) % count
        if (sample == sample[rows][place]).all():
            return rows, place
        return np.arange(len(sample)), np.arange(len(sample))

    def _predict(
        self, timestep: int, samples: Sequence[Array], image_latents: Sequence[Floats], texts: Sequence[Text]
    ) -> Floats:
        """The output for several batches at once."""
        feeds: dict[str, NDArray[Any]] = {
            "sample": np.concatenate(samples, dtype=np.float32),
            "image_latents": np.concatenate(image_latents),
            **join_texts(texts),
        }
        feeds["timestep"] = np.full(len(feeds["sample"]), timestep, np.int64)
        most = max(1, MAX_PIXELS // self.image_latents[0, 0].size)
        parts = [self.engine(part)["out_sample"] for part in cut_batch(feeds, most)]
        return check_finite(np.concatenate(parts), "label_denoiser", f"t={timestep}")
