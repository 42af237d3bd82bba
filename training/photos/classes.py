"""Stage one of `photo`: the way down through the denoiser learns which classes there are, and where.

A scene costs a seventh of what it costs with two captions, and all its objects teach something at once.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from training.demo.networks import new_scheduler
from training.demo.train_vae import to_unit
from training.demo.training import TrainingLoop
from training.photos.compose import SceneComposer
from training.photos.gate import PhotoCases
from training.photos.model import PhotoDenoiser
from training.photos.words import SEVEN, VOID

SCENES, LEARNING_RATE = 16, 1e-3


class PhotoClassTraining:
    """A training run of the denoiser's first half.

    Args:
        run: folder of the run.
        composer: training scenes.
        cases: held-out cases.
        denoiser: trained in place.
        vae: the image codec.
        nothing: states of the empty caption, (1, tokens, hidden).
    """

    def __init__(
        self,
        run: Path,
        composer: SceneComposer,
        cases: PhotoCases,
        denoiser: PhotoDenoiser,
        vae: AutoencoderKL,
        nothing: Tensor,
    ) -> None:
        self.run, self._composer, self._cases = run, composer, cases
        self._denoiser, self._vae, self._nothing = denoiser, vae, nothing.detach()
        self._alphas = new_scheduler().alphas_cumprod
        self._losses: list[float] = []
        self.loop = TrainingLoop(
            networks={"denoiser": denoiser},
            step=self.step,
            gate=self.gate,
            batch=SCENES,
            learning_rate=LEARNING_RATE,
            seed=19,
            state_file=run / "classes.pt",
            decay=0.995,
            log_every=25,
            save_every=50,
            gate_every=125,
        )

    def step(self, rng: np.random.Generator) -> Tensor:
        """Cross-entropy of SCENES noisy scenes."""
        scenes = [self._composer.draw(rng) for _ in range(SCENES)]
        labels = torch.from_numpy(np.stack([scene.labels for scene in scenes])).long()
        with torch.no_grad():
            latents = self._vae.encode(to_unit(np.stack([scene.image for scene in scenes]))).latent_dist.mean
        timestep = torch.from_numpy(rng.integers(0, 450, SCENES))
        noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
        loss = class_loss(self._logits(self._denoiser, latents, timestep, noise), labels)
        self._losses.append(float(loss.detach()))
        return loss

    @torch.no_grad()
    def gate(self) -> str:
        """A line about held-out objects, and one more of `curve.jsonl`.

        "class": the share given their class; "pair": the share in which the right class beats a wrong one.
        """
        denoiser, cases = self.loop.averages["denoiser"], self._cases
        generator = torch.Generator().manual_seed(9)
        right, wrong = torch.tensor(cases.right), torch.tensor(cases.wrong)
        figures: dict[str, float] = {}
        for level in (100, 350):
            scores = []
            for rows in torch.arange(len(right)).split(64):
                latents = self._vae.encode(to_unit(cases.images[rows.numpy()])).latent_dist.mean
                noise = torch.randn(latents.shape, generator=generator)
                logits = self._logits(denoiser, latents, torch.full((len(rows),), level), noise)[:, : len(SEVEN) + 1]
                scores.append((logits * cases.region[rows][:, None]).sum((2, 3)))
            table = torch.cat(scores)
            figures[f"class@{level}"] = float((table[:, 1:].argmax(1) + 1 == right).float().mean())
            pair = table.gather(1, right[:, None]) > table.gather(1, wrong[:, None])
            figures[f"pair@{level}"] = float(pair.float().mean())
        line = {"class samples": self.loop.samples, "time": time.time(), "loss": float(np.mean(self._losses[-250:]))}
        with (self.run / "curve.jsonl").open("a") as file:
            file.write(json.dumps({key: round(value, 4) for key, value in (line | figures).items()}) + "\n")
        return " ".join(f"{key} {value:.3f}" for key, value in figures.items())

    def _logits(self, denoiser: PhotoDenoiser, latents: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        alpha = self._alphas[timestep].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        return denoiser.read_classes(noisy, timestep, self._nothing.expand(len(latents), -1, -1))


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the share of background, each of the seven and any other class in each cell."""
    folded = torch.where(labels == VOID, len(SEVEN) + 2, labels.clamp(max=len(SEVEN) + 1))
    shares = F.avg_pool2d(F.one_hot(folded, len(SEVEN) + 3).permute(0, 3, 1, 2).float(), 4)[:, :-1]
    return -(shares * logits.log_softmax(1)).sum() / shares.sum()
