from dataclasses import replace

import pytest
import torch

from segrefine.reference.checkpoint import load_checkpoint
from segrefine.reference.g4seg import G4Seg
from segrefine.settings import G4SegSettings

SETTINGS = G4SegSettings(noises=2, loop_steps=6, text_timesteps=(400,))


@pytest.fixture(scope="module")
def g4seg(tiny_checkpoint) -> G4Seg:
    return G4Seg(load_checkpoint(tiny_checkpoint), SETTINGS, ("up_blocks.1.attentions.0",))


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image, coarse mask, noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.zeros(1, 1, 8, 8)
    coarse[..., 2:6, 1:5] = 1
    return torch.rand(1, 3, 16, 16, generator=generator) * 2 - 1, coarse, torch.randn(2, 4, 8, 8, generator=generator)


@pytest.mark.parametrize("mode", ["one-step", "loop"])
def test_rounds_give_probabilities_and_tell_every_step(tiny_checkpoint, inputs, mode):
    told = []
    settings = replace(SETTINGS, mode=mode, timesteps=(500, 300), confusion=(1.0, 0.4), worth_range=())
    reference = G4Seg(
        load_checkpoint(tiny_checkpoint), settings, ("up_blocks.1.attentions.0",), lambda *step: told.append(step[0])
    )
    result = reference.refine(inputs[0], inputs[1], "fox", inputs[2])
    assert len(result.rounds) == 2
    assert result.probability.shape == (1, 1, 8, 8) and ((result.probability >= 0) & (result.probability <= 1)).all()
    assert set(told) == ({"one-step"} if mode == "one-step" else {"inversion", "sampling"})


def test_a_label_that_says_nothing_is_no_evidence(g4seg, inputs):
    image, coarse, noise = inputs
    g4seg.prompt, g4seg.indicator = g4seg.encode_label("fox", (16, 16))
    g4seg.unconditional = g4seg.prompt
    g4seg.settings = replace(SETTINGS, text_strengths=(0.0,))
    assert g4seg.text_evidence(g4seg.model.encode_image(image), coarse, noise, worth=None).abs().max() < 1e-6


def test_loop_without_a_mask_comes_back_to_the_image_as_steps_grow(g4seg, inputs):
    g4seg.settings = replace(SETTINGS, self_strength=0.0, cross_strength=0.0)
    g4seg.prompt, g4seg.indicator = g4seg.encode_label("fox", (16, 16))
    z0, errors = g4seg.model.encode_image(inputs[0]), []
    for steps in (10, 200):
        for scheduler in (g4seg.scheduler, g4seg.inverse):
            scheduler.set_timesteps(steps)
        errors.append((g4seg.sample(g4seg.invert(z0, 300), 300, inputs[1], (0.0, 0.0)) - z0).abs().max())
    assert errors[1] < 0.3 * errors[0]
