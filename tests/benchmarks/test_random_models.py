"""Random models: a seed gives one model, and only what is to be random is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from benchmarks.random_models import write_random
from segrefine.assets import demo_checkpoint


def weights(folder: Path) -> torch.Tensor:
    return UNet2DConditionModel.from_pretrained(folder / "unet").conv_in.weight.detach().float()


def codec(folder: Path) -> torch.Tensor:
    return AutoencoderKL.from_pretrained(folder / "vae").encoder.conv_in.weight.detach().float()


def test_a_seed_gives_one_model(tmp_path: Path) -> None:
    first, again, other = (
        weights(write_random("tiny", seed, tmp_path / name)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(("model", "kept"), [("demo", False), ("demo-unet", True)])
def test_only_the_unet_of_one_kind_is_random(tmp_path: Path, model: str, kept: bool) -> None:
    written = write_random(model, 0, tmp_path / "model")
    assert not torch.equal(weights(written), weights(demo_checkpoint()))
    assert torch.equal(codec(written), codec(demo_checkpoint())) == kept
