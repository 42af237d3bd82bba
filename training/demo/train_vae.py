"""Stage one of the demo model: the image codec."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from training.demo.checkpoints import WeightAverage, load_state, save_state
from training.demo.networks import new_vae, widen_vae

BATCH, LEARNING_RATE, KL_WEIGHT, KEPT_WEIGHT = 16, 1.5e-3, 1e-6, 0.1


def to_unit(images: NDArray[np.uint8]) -> Tensor:
    """uint8 (B, H, W, 3) in 0…255 → float32 (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vae(
    images: NDArray[np.uint8], state_file: Path, *, steps: int, widened: AutoencoderKL | None = None
) -> AutoencoderKL:
    """The trained codec, with `scaling_factor` set so that latents have unit variance.

    Resumes from `state_file` where a run was cut off; prints a line with the loss every 100 steps.

    Args:
        images: training images, uint8 (n, 64, 64, 3).
        state_file: where the state is kept between runs.
        steps: optimiser steps of 16 images.
        widened: a trained codec to set out from: the first channels stay close to its own, and so does their scale.
            Nothing is generated in its latents, so they need no prior; under one the new channels fade.
    """
    torch.manual_seed(0)
    vae = (widen_vae(widened) if widened else new_vae()).to(memory_format=torch.channels_last).train()
    average = copy.deepcopy(vae)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    done = 0
    if state := load_state(state_file):
        vae.load_state_dict(state["live"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        done = state["step"]
    smooth, losses, began = WeightAverage([vae], [average], 0.999), [], time.time()
    for step in range(done, steps):
        for group in optimiser.param_groups:
            warm, cosine = min(1.0, (step + 1) / 100), 0.5 * (1 + math.cos(math.pi * step / steps))
            group["lr"] = LEARNING_RATE * warm * (0.02 + 0.98 * cosine)
        rng = np.random.default_rng([7, step])
        losses.append(_step(vae, widened, optimiser, images[rng.integers(len(images), size=BATCH)]))
        smooth.update(step)
        if (step + 1) % 100 == 0:
            rate = (step + 1 - done) * BATCH / (time.time() - began)
            print(f"vae step {step + 1}/{steps} loss {np.mean(losses[-100:]):.4f} images/s {rate:.0f}", flush=True)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            state = {"live": vae.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
            save_state(state_file, state | {"step": step + 1})
    if not widened:
        _set_scale(average, images)
    return average


def _step(
    vae: AutoencoderKL, widened: AutoencoderKL | None, optimiser: torch.optim.Optimizer, images: NDArray[np.uint8]
) -> float:
    target = to_unit(images).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(target).latent_dist
        output = vae.decode(posterior.mean if widened else posterior.sample()).sample.float()
    edges = sum(F.l1_loss(output.diff(dim=d), target.diff(dim=d)) for d in (2, 3))
    loss = F.l1_loss(output, target) + F.mse_loss(output, target) + 0.5 * edges
    if widened:
        total = loss + KEPT_WEIGHT * _drift(posterior.mean, widened, target)
    else:
        total = loss + KL_WEIGHT * posterior.kl().float().mean()
    optimiser.zero_grad()
    total.backward()
    torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


def _drift(mean: Tensor, widened: AutoencoderKL, images: Tensor) -> Tensor:
    """Return the drift of the first latents from those of the codec that was widened, in its variances."""
    with torch.no_grad():
        kept = widened.encode(images).latent_dist.mean
    drift: Tensor = F.mse_loss(mean[:, : kept.shape[1]], kept) * widened.config.scaling_factor**2
    return drift


@torch.no_grad()
def _set_scale(vae: AutoencoderKL, images: NDArray[np.uint8]) -> None:
    latents = torch.cat([vae.encode(to_unit(images[i : i + 64])).latent_dist.mean for i in range(0, 1024, 64)])
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
