from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from segrefine.errors import SettingsError
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.reference.features import combine_features, extract_features

TAPS = ("up_blocks.1.attentions.0", "down_blocks.0", "up_blocks.0", "mid_block.attentions.0")


@pytest.fixture(scope="module")
def unet(tiny_checkpoint: Path) -> UNet2DConditionModel:
    return load_checkpoint(tiny_checkpoint).unet


def features(unet: UNet2DConditionModel, taps: tuple[str, ...]) -> torch.Tensor:
    torch.manual_seed(0)
    sample, states = torch.randn(2, 4, 7, 10), torch.randn(2, 3, 32)
    return extract_features(unet, sample, torch.tensor([5, 500]), {"encoder_hidden_states": states}, taps)


def test_every_tap_weighs_the_same(unet: UNet2DConditionModel) -> None:
    every = features(unet, TAPS)
    assert every.shape == (2, 70, 16 + 16 + 32 + 32)
    for part in every.split([16, 16, 32, 32], dim=2):
        torch.testing.assert_close(part.norm(dim=2), torch.full((2, 70), 0.5))


def test_taps_come_in_the_order_given(unet: UNet2DConditionModel) -> None:
    there, back = features(unet, TAPS[:2]), features(unet, TAPS[1::-1])
    assert torch.equal(there.roll(16, dims=2), back) and not torch.equal(there, back)


def test_hooks_are_gone_afterwards(unet: UNet2DConditionModel) -> None:
    features(unet, TAPS)
    assert not any(module._forward_hooks for module in unet.modules())


def test_descriptors_are_centred_resized_and_of_unit_length() -> None:
    corners = torch.tensor([[[1.0, 3.0]], [[8.0, 8.0]]])[None]  # one row of two cells, two channels
    (left, *_, right) = combine_features({"tap": corners}, (1, 4))[0]
    torch.testing.assert_close(left, torch.tensor([-1.0, 0.0]))
    torch.testing.assert_close(right, torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("taps", [("up_blocks.9",), ()])
def test_unknown_taps_are_refused(unet: UNet2DConditionModel, taps: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError, match="expected submodules of the UNet"):
        features(unet, taps)
