"""The gate every demo model has to pass: does it know its words?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.demo.captions import CaptionEncoder, draw_pair
from training.demo.pool import ScenePool

TIMESTEPS = (200, 350, 500, 650)
NOISES = 2


@dataclass(frozen=True, kw_only=True)
class GateCases:
    """Held-out objects, each with its right and a wrong caption.

    Attributes:
        latents: float32 (n, 4, 16, 16), scaled.
        region: float32 (n, 16, 16); share of each latent pixel that the object covers.
        right: the object's caption.
        wrong: the caption of a class that is not in the scene.
    """

    latents: Tensor
    region: Tensor
    right: list[str]
    wrong: list[str]


def gate_cases(scenes: ScenePool, latents: Tensor, count: int) -> GateCases:
    """One object of each of the first `count` scenes, and a wrong label for it, drawn with a fixed seed."""
    rng = np.random.default_rng(11)
    right, wrong, regions = [], [], []
    for i in range(count):
        target, named, misnamed = draw_pair(rng, scenes.classes[i])
        right.append(named)
        wrong.append(misnamed)
        regions.append(torch.from_numpy(scenes.instances[i] == target + 1).float())
    region = F.avg_pool2d(torch.stack(regions)[:, None], 4)[:, 0]
    return GateCases(latents=latents[:count].float(), region=region, right=right, wrong=wrong)


@torch.no_grad()
def text_gate(
    unet: nn.Module,
    text_encoder: nn.Module,
    encode: CaptionEncoder,
    alphas_cumprod: Tensor,
    cases: GateCases,
    batch: int = 64,
) -> tuple[float, float]:
    """Share of cases with less error in the object's region under the right caption, and mean wrong ÷ right error.

    Args:
        unet: v-prediction denoiser.
        text_encoder: its text encoder.
        encode: captions → token ids.
        alphas_cumprod: (1000,) of its noise schedule.
        cases: what to test on.
        batch: cases at a time.
    """
    states = [text_encoder(encode(captions)).last_hidden_state for captions in (cases.right, cases.wrong)]
    errors = torch.zeros(2, len(cases.right))
    generator = torch.Generator().manual_seed(9)
    for timestep in TIMESTEPS:
        alpha = alphas_cumprod[timestep]
        for _ in range(NOISES):
            noise = torch.randn(cases.latents.shape, generator=generator)
            noisy = alpha.sqrt() * cases.latents + (1 - alpha).sqrt() * noise
            target = alpha.sqrt() * noise - (1 - alpha).sqrt() * cases.latents
            for which, state in enumerate(states):
                for part in torch.arange(len(noisy)).split(batch):
                    output = unet(noisy[part], torch.full((len(part),), timestep), state[part]).sample
                    error = (output.float() - target[part]).square().mean(1)
                    errors[which, part] += (error * cases.region[part]).sum((1, 2)) / cases.region[part].sum((1, 2))
    return float((errors[0] < errors[1]).float().mean()), float((errors[1] / errors[0]).mean())
