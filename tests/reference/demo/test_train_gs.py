"""One short run of label diffusion's training, from the shipped text-to-image model, on scenes painted by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from segrefine import assets
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.reference.demo.augment import SceneSource
from segrefine.reference.demo.label_gate import label_cases
from segrefine.reference.demo.networks import new_label_denoiser
from segrefine.reference.demo.pool import ScenePool
from segrefine.reference.demo.scenes import Scene
from segrefine.reference.demo.train_gs import LabelTraining
from segrefine.reference.label_codec import AreaCodec

DEMO = Path(assets.__file__).parent / "demo-checkpoint"
CODEC = AreaCodec(fold=4, scale=0.25, vae_scale_factor=4)


@pytest.fixture(scope="module")
def demo():
    return load_checkpoint(DEMO)


@pytest.fixture(autouse=True)
def _eager():
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


def pool(count):
    """Scenes with a red fox at some place, bright on dark."""
    rng, scenes = np.random.default_rng(0), []
    for _ in range(count):
        x, y = rng.integers(0, 40, 2)
        instances = np.zeros((64, 64), np.uint8)
        instances[y : y + 24, x : x + 24] = 1
        image = np.where(instances[..., None] > 0, np.array([230, 30, 30]), 20).astype(np.uint8)
        scenes.append(Scene(image=image, instances=instances, classes=(0,)))
    return ScenePool.of(scenes)


def training(demo, file, prediction_type="v_prediction"):
    scenes = pool(32)
    latents = demo.vae.encode(torch.from_numpy(scenes.images).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
    return LabelTraining(
        source=SceneSource(pool=scenes, latents=latents.half(), vae=demo.vae),
        tokenizer=demo.tokenizer,
        codec=CODEC,
        unet=demo.unet,
        text_encoder=load_checkpoint(DEMO).text_encoder,
        cases=label_cases(scenes, latents, demo.vae),
        state_file=file,
        prediction_type=prediction_type,
    )


def test_denoiser_sets_out_from_what_the_unet_knows(demo):
    denoiser = new_label_denoiser(16, demo.unet).state_dict()
    learned = demo.unet.state_dict()
    assert torch.equal(denoiser["conv_in.weight"][:, 16:], learned["conv_in.weight"])
    changed = {name for name, value in learned.items() if denoiser[name].shape != value.shape}
    assert all(torch.equal(denoiser[name], learned[name]) for name in learned.keys() - changed)
    assert changed == {"conv_in.weight", "conv_out.weight", "conv_out.bias"}


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_training_learns_logs_and_resumes(demo, tmp_path, prediction_type):
    lines = []
    first = training(demo, tmp_path / "state.pt", prediction_type)
    losses = [float(first.loop._descend(first._step(np.random.default_rng(i % 2)))) for i in range(12)]
    assert np.mean(losses[-2:]) < 0.98 * np.mean(losses[:2])
    first.loop.run(64, lines.append)
    assert "wrong object" in lines[-1] and "IoU" in lines[-1]
    second = training(demo, tmp_path / "state.pt", prediction_type)
    assert second.loop.samples == 64
    for name, network in first.loop.averages.items():
        for ours, theirs in zip(network.parameters(), second.loop.averages[name].parameters(), strict=True):
            assert torch.equal(ours, theirs)
