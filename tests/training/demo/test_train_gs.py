"""One short run of label diffusion's training, from the shipped text-to-image model, on scenes painted by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from segrefine import assets
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.reference.label_codec import AreaCodec
from training.demo.augment import SceneSource
from training.demo.label_gate import label_cases
from training.demo.networks import IMAGE_TIMESTEP, new_label_denoiser, widen_vae
from training.demo.pool import ScenePool
from training.demo.scenes import DemoScene
from training.demo.train_classes import ClassProbe, ClassTraining, class_loss
from training.demo.train_gs import LabelTraining, _WithClasses

DEMO = Path(assets.__file__).parent / "demo-checkpoint"
CODEC = AreaCodec(fold=4, scale=0.25, vae_scale_factor=4)


@pytest.fixture(scope="module")
def demo():
    demo = load_checkpoint(DEMO)
    parts = {"vae": widen_vae(demo.vae).eval(), "unet": demo.unet, "text_encoder": demo.text_encoder}
    return replace(demo, load=parts.__getitem__)


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
        scenes.append(DemoScene(image=image, instances=instances, classes=(0,)))
    return ScenePool.of(scenes)


def source(demo):
    scenes = pool(32)
    latents = demo.vae.encode(torch.from_numpy(scenes.images).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
    return SceneSource(pool=scenes, latents=latents.half(), vae=demo.vae)


def class_training(demo, file):
    given, nothing = source(demo), demo.encode_text([""], (128, 128))["encoder_hidden_states"]
    torch.manual_seed(0)
    return ClassTraining(
        source=given,
        denoiser=new_label_denoiser(16, demo.unet),
        nothing=nothing,
        held_out=given.pool,
        held_out_latents=given.latents,
        state_file=file,
    )


def training(demo, file, prediction_type):
    given = source(demo)
    torch.manual_seed(0)
    return LabelTraining(
        source=given,
        tokenizer=demo.tokenizer,
        codec=CODEC,
        probe=ClassProbe(new_label_denoiser(16, demo.unet)),
        text_encoder=load_checkpoint(DEMO).text_encoder,
        cases=label_cases(given.pool, given.latents, demo.vae),
        state_file=file,
        prediction_type=prediction_type,
    )


def test_denoiser_sets_out_from_what_the_unet_knows(demo):
    denoiser = new_label_denoiser(16, demo.unet).state_dict()
    learned = demo.unet.state_dict()
    assert torch.equal(denoiser["conv_in.weight"][:, 16:20], learned["conv_in.weight"])
    assert not denoiser["conv_in.weight"][:, 20:].any()
    changed = {name for name, value in learned.items() if denoiser[name].shape != value.shape}
    first = {"time_embedding.linear_1.weight", "time_embedding.linear_1.bias"}
    assert all(torch.equal(denoiser[name], learned[name]) for name in learned.keys() - changed - first)
    assert changed == {"conv_in.weight", "conv_out.weight", "conv_out.bias"}


@torch.no_grad()
def test_denoiser_sets_out_at_one_noise_level_of_the_image_and_can_learn_others(demo):
    denoiser, unet = new_label_denoiser(16, demo.unet), demo.unet
    wanted = unet.time_embedding(unet.time_proj(torch.tensor([IMAGE_TIMESTEP])))
    for timestep in (0, 500, 999):
        torch.testing.assert_close(denoiser.time_embedding(denoiser.time_proj(torch.tensor([timestep]))), wanted)
    assert denoiser.time_embedding.linear_1.weight.requires_grad


@pytest.mark.slow  # bfloat16 is emulated on many processors
@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction", "epsilon"])
def test_training_learns_logs_and_resumes(demo, tmp_path, prediction_type):
    lines: list[str] = []
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


@pytest.mark.slow
def test_classes_are_learned_by_the_first_half_alone(demo, tmp_path):
    lines: list[str] = []
    run = class_training(demo, tmp_path / "classes.pt")
    before = {name: value.clone() for name, value in run.denoiser.state_dict().items()}
    losses = [float(run.loop._descend(run._step(np.random.default_rng(i % 2)))) for i in range(12)]
    assert np.mean(losses[-2:]) < 0.9 * np.mean(losses[:2])
    changed = {name for name, value in run.denoiser.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.partition(".")[0] for name in changed} <= {"conv_in", "time_embedding", "down_blocks", "mid_block"}
    run.loop.run(32, lines.append)
    assert "class of" in lines[-1]
    assert class_training(demo, tmp_path / "classes.pt").loop.samples == 32


@torch.no_grad()
def test_the_probe_reads_what_the_denoiser_computes(demo):
    probe = ClassProbe(new_label_denoiser(16, demo.unet)).eval()
    inputs = torch.randn(2, 32, 16, 16, generator=torch.Generator().manual_seed(0))
    given = inputs, torch.tensor([3, 900]), demo.encode_text(["the fox", ""], (128, 128))["encoder_hidden_states"]
    alone = probe(*given)
    output, beside = _WithClasses(probe)(*given)
    torch.testing.assert_close(alone, beside)
    torch.testing.assert_close(output, probe.denoiser(*given).sample)
    assert alone.shape == (2, 17, 16, 16)


def test_class_loss_is_least_where_the_shares_are_right():
    scene = pool(1).scene(0)
    shares = torch.zeros(1, 17, 16, 16)
    inside = torch.from_numpy(scene.instances > 0)[None, None].float()
    shares[:, 1:2] = torch.nn.functional.avg_pool2d(inside, 4)
    shares[:, 0] = 1 - shares[:, 1]
    right = class_loss((shares + 1e-9).log(), [scene])
    assert right < class_loss((shares.roll(1, 1) + 1e-9).log(), [scene])
    assert right < class_loss(torch.zeros(1, 17, 16, 16), [scene])
