"""The losses of label diffusion: on what the denoiser predicts, and on the decoded mask.

The end-to-end loss follows "Fine-tuning image-conditional diffusion models is easier than you think" (arXiv
2409.11355): one step from pure noise, and the task's own loss on its result.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHARPNESS = 2.0
"""Turns a decoded value in [-1, 1] into log-odds: sigmoid(2u) and (u + 1) / 2 have one slope at u = 0."""
DICE_WEIGHT, SQUARE_WEIGHT = 0.5, 0.3
_SMOOTH = 0.005
"""Share of the image that keeps the Dice loss of an empty mask finite."""


def clean_from_output(output: Tensor, noisy: Tensor, alpha: Tensor, prediction: str) -> Tensor:
    """The clean label latents that a denoiser's output implies.

    Args:
        output: (B, C, h, w).
        noisy: label latents that it was given, (B, C, h, w).
        alpha: cumulated alphas of their levels, (B, 1, 1, 1).
        prediction: "sample", "v_prediction" or "epsilon".
    """
    if prediction == "sample":
        return output
    if prediction == "v_prediction":
        return alpha.sqrt() * noisy - (1 - alpha).sqrt() * output
    return (noisy - (1 - alpha).sqrt() * output) / alpha.sqrt().clamp(min=1e-3)


def diffusion_loss(clean: Tensor, truth: Tensor, alpha: Tensor, prediction: str) -> Tensor:
    """Squared error (B,) of the clean latents, weighted as the prediction type weights it.

    The error of v and of the noise, written as an error of the clean latents, has the weights 1 / (1 - alpha) and
    alpha / (1 - alpha). Both are cut off at 5.
    """
    error = (clean - truth).square().mean((1, 2, 3)) / truth.square().mean()
    level = alpha.flatten()
    if prediction == "sample":
        return error
    weight = (1 if prediction == "v_prediction" else level) / (1 - level).clamp(min=1e-3)
    return error * torch.as_tensor(weight).clamp(max=5)


def mask_loss(decoded: Tensor, mask: Tensor, counted: Tensor) -> Tensor:
    """Cross-entropy, Dice and squared error (B,) of a decoded mask.

    Args:
        decoded: (B, H, W), +1 on the object and -1 off it; not clamped, so that every pixel has a gradient.
        mask: the true mask (B, H, W), 0 or 1.
        counted: (B, H, W), 1 for pixels that count.
    """
    pixels = counted.sum((1, 2)).clamp(min=1)
    logits = SHARPNESS * decoded
    entropy = (F.binary_cross_entropy_with_logits(logits, mask, reduction="none") * counted).sum((1, 2)) / pixels
    square = ((decoded - (2 * mask - 1)).square() * counted).sum((1, 2)) / pixels
    found, true = torch.sigmoid(logits) * counted, mask * counted
    smooth = _SMOOTH * mask[0].numel()
    dice = 1 - (2 * (found * true).sum((1, 2)) + smooth) / (found.sum((1, 2)) + true.sum((1, 2)) + smooth)
    return entropy + DICE_WEIGHT * dice + SQUARE_WEIGHT * square
