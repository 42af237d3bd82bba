"""The gate of label diffusion: does the mask go where the phrase points?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from segrefine.reference.checkpoint import LabelCheckpoint
from segrefine.reference.gs import Gs
from segrefine.runtime.imaging.metrics import iou
from segrefine.settings import GsSettings
from training.demo.phrases import Phrase, list_phrases
from training.demo.pool import ScenePool

_SEED = 19


@dataclass(frozen=True, kw_only=True)
class LabelCases:
    """Held-out scenes, each with a phrase.

    Attributes:
        scenes: the scenes.
        latents: float32 (n, c, h, w), scaled.
        phrases: one for each scene.
        vae: the codec of the latents.
    """

    scenes: ScenePool
    latents: Tensor
    phrases: list[Phrase]
    vae: AutoencoderKL


@dataclass(frozen=True, kw_only=True)
class LabelGate:
    """Result of the measurement.

    Attributes:
        iou: mean, by kind of phrase; for "absent" the share of the image that is taken for it.
        wrong: share of phrases for one of several objects whose mask fits another object best.
    """

    iou: dict[str, float]
    wrong: float

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {value:.3f}" for kind, value in self.iou.items())
        return f"wrong object {self.wrong:.3f}, IoU {kinds}"


def label_cases(scenes: ScenePool, latents: Tensor, vae: AutoencoderKL) -> LabelCases:
    """A phrase for every scene, drawn with a fixed seed: the kinds that the scene has evenly."""
    rng, phrases = np.random.default_rng(_SEED), []
    for index in range(len(scenes)):
        listed = list(list_phrases(scenes.scene(index)).values())
        kind = listed[rng.integers(len(listed))]
        phrases.append(kind[rng.integers(len(kind))])
    return LabelCases(scenes=scenes, latents=latents.float(), phrases=phrases, vae=vae)


@torch.no_grad()
def label_gate(model: LabelCheckpoint, cases: LabelCases, batch: int = 64) -> LabelGate:
    """The gate, with the default settings.

    Args:
        model: the model.
        cases: what to test on.
        batch: cases at a time.
    """
    gs = Gs(model, GsSettings(samples=1))
    size = (len(cases.latents), model.codec.channels, *cases.latents.shape[2:])
    noise = torch.randn(size, generator=torch.Generator().manual_seed(_SEED))
    masks = []
    with torch.autocast("cpu", torch.bfloat16):
        for part in torch.arange(len(noise)).split(batch):
            text = model.encode_text([cases.phrases[i].text for i in part], cases.scenes.instances.shape[1:])
            decoded = model.codec.decode(gs.sample(cases.latents[part], text, noise[part]).float())
            masks.append(F.interpolate(decoded, cases.scenes.instances.shape[1:], mode="bilinear")[:, 0] > 0.5)
    return _judge(torch.cat(masks).numpy(), cases)


def _judge(masks: NDArray[np.bool_], cases: LabelCases) -> LabelGate:
    scores: dict[str, list[float]] = {}
    wrong = []
    for mask, phrase, instances in zip(masks, cases.phrases, cases.scenes.instances, strict=True):
        score = mask.mean() if phrase.kind == "absent" else iou(mask, phrase.mask(instances))
        scores.setdefault(phrase.kind, []).append(float(score))
        others = set(range(1, int(instances.max()) + 1)) - set(phrase.objects)
        if len(phrase.objects) == 1 and phrase.objects != (0,) and others:
            wrong.append(max(iou(mask, instances == other) for other in others) > score)
    means = {kind: float(np.mean(each)) for kind, each in sorted(scores.items())}
    return LabelGate(iou=means, wrong=float(np.mean(wrong)))
