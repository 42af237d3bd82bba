from __future__ import annotations

import numpy as np
import pytest
import torch

from segrefine.train.levels import draw_levels, draw_lower_levels, is_end_to_end
from segrefine.train.losses import clean_from_output, diffusion_loss, mask_loss


@pytest.mark.parametrize("prediction", ["sample", "v_prediction", "epsilon"])
def test_the_true_output_gives_the_clean_latents(prediction):
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 4, 5, 5, generator=generator) for _ in range(2))
    alpha = torch.tensor([0.9, 0.5, 0.1]).view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    output = {"sample": clean, "epsilon": noise,
              "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * clean}[prediction]  # fmt: skip
    found = clean_from_output(output, noisy, alpha, prediction)
    assert torch.allclose(found, clean, atol=1e-5)
    assert diffusion_loss(found, clean, alpha, prediction).max() < 1e-8


def test_mask_loss_falls_as_the_mask_gets_right():
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:6, 2:6] = 1
    counted = torch.ones_like(mask)
    right, wrong, unsure = 2 * mask - 1, 1 - 2 * mask, torch.zeros_like(mask)
    losses = [float(mask_loss(each, mask, counted)) for each in (right, unsure, wrong)]
    assert losses == sorted(losses) and losses[0] < 0.3


def test_an_empty_mask_punishes_every_pixel_that_is_found():
    mask, counted = torch.zeros(1, 8, 8), torch.ones(1, 8, 8)
    some = torch.full((1, 8, 8), -1.0)
    some[:, :2] = 1
    assert mask_loss(-counted, mask, counted) < mask_loss(some, mask, counted) < mask_loss(counted, mask, counted)


def test_pixels_that_do_not_count_change_nothing():
    mask, counted = torch.zeros(1, 8, 8), torch.ones(1, 8, 8)
    mask[:, :4] = 1
    counted[:, 6:] = 0
    decoded = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(1))
    other = decoded.clone()
    other[:, 6:] = 7
    assert torch.equal(mask_loss(decoded, mask, counted), mask_loss(other, mask, counted))


def test_levels():
    rng = np.random.default_rng(0)
    end = draw_levels(rng, 4000, 1000, "end-to-end", 0.0)
    assert end.min() >= 900 and end.max() == 999 and 0.4 < (end == 999).mean() < 0.6
    diffusion = draw_levels(rng, 4000, 1000, "diffusion", 0.0)
    assert diffusion.min() < 50 and 0.4 < (diffusion >= 900).mean() < 0.7
    assert draw_lower_levels(rng, 4000, 1000).max() < 900
    assert [is_end_to_end("both", done) for done in (0, 0.49, 0.5, 1)] == [False, False, True, True]
