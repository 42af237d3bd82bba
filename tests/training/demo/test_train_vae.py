"""The wider image codec of the label diffusion model, from the shipped one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from segrefine import assets
from segrefine.assets import demo_samples
from segrefine.cli.samples import load_samples
from segrefine.reference.checkpoint import load_checkpoint
from training.demo.networks import LATENT_CHANNELS, WIDE_CHANNELS, widen_vae
from training.demo.train_vae import to_unit, train_vae

DEMO = Path(assets.__file__).parent / "demo-checkpoint"


@pytest.fixture(scope="module")
def vae():
    return load_checkpoint(DEMO).vae


@pytest.fixture(scope="module")
def images():
    return np.stack([sample.image[:64, :64] for sample in load_samples(demo_samples()).values()])


@torch.no_grad()
def test_widened_codec_sets_out_from_the_narrow_one(vae, images):
    wide, pixels = widen_vae(vae).eval(), to_unit(images)
    ours, theirs = wide.encode(pixels).latent_dist, vae.encode(pixels).latent_dist
    assert ours.mean.shape[1] == WIDE_CHANNELS and ours.mean[:, LATENT_CHANNELS:].std() > 0.01
    torch.testing.assert_close(ours.mean[:, :LATENT_CHANNELS], theirs.mean)
    torch.testing.assert_close(ours.logvar[:, :LATENT_CHANNELS], theirs.logvar)
    torch.testing.assert_close(wide.decode(ours.mean).sample, vae.decode(theirs.mean).sample, rtol=1e-4, atol=1e-4)
    assert wide.config.scaling_factor == vae.config.scaling_factor


@torch.no_grad()
@pytest.mark.slow  # bfloat16 is emulated on many processors
def test_widened_codec_reads_its_new_latents_in_time_and_keeps_the_old_ones(vae, images, tmp_path):
    pixels, kept = to_unit(images), vae.encode(to_unit(images)).latent_dist.mean
    with torch.enable_grad():
        trained = train_vae(images, tmp_path / "wide.pt", steps=20, widened=vae)
    mean = trained.encode(pixels).latent_dist.mean
    assert (mean[:, :LATENT_CHANNELS] - kept).square().mean() < 0.1 * kept.var()
    blind = torch.cat([mean[:, :LATENT_CHANNELS], torch.zeros_like(mean[:, LATENT_CHANNELS:])], 1)
    assert (trained.decode(mean).sample - trained.decode(blind).sample).abs().max() > 1e-3  # 0 at first
    again = train_vae(images, tmp_path / "wide.pt", steps=20, widened=vae)
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), again.parameters(), strict=True))
