from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from segrefine.errors import ExportError, SettingsError, ShapeError
from segrefine.reference.attention import (
    MaskInjection,
    MaskInjectionProcessor,
    MaskInjector,
    attend_naive,
    inject_masks,
)
from segrefine.reference.checkpoint import load_checkpoint

TOKENS = 5


@pytest.fixture
def unet(tiny_checkpoint: Path) -> UNet2DConditionModel:
    return load_checkpoint(tiny_checkpoint).unet


def injection(batch: int = 2, grid: tuple[int, int] = (8, 6), strength: float = 3.0) -> MaskInjection:
    generator = torch.Generator().manual_seed(1)
    return MaskInjection(
        foreground=torch.rand(batch, 1, *grid, generator=generator),
        token_indicator=torch.eye(3)[torch.randint(3, (batch, TOKENS), generator=generator)][..., :2],
        strength=torch.full((batch, 2), strength),
    )


def unet_inputs(batch: int = 2, grid: tuple[int, int] = (8, 6)) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    states = torch.randn(batch, TOKENS, 32, generator=generator)
    return torch.randn(batch, 4, *grid, generator=generator), torch.arange(batch) * 100, states


def test_uninjected_unet_is_diffusers_own(unet: UNet2DConditionModel) -> None:
    expected = unet(*unet_inputs()).sample
    injector = inject_masks(unet)
    with injector.apply(injection()):
        assert not torch.equal(unet(*unet_inputs()).sample, expected)
    assert torch.equal(unet(*unet_inputs()).sample, expected)


def test_zero_strength_injects_nothing(unet: UNet2DConditionModel) -> None:
    expected = unet(*unet_inputs()).sample
    with inject_masks(unet).apply(injection(strength=0)):
        torch.testing.assert_close(unet(*unet_inputs()).sample, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", [(8, 6), (7, 5)])
def test_each_sample_has_its_own_mask(unet: UNet2DConditionModel, grid: tuple[int, int]) -> None:
    injector, whole, inputs = inject_masks(unet), injection(grid=grid), unet_inputs(grid=grid)
    with injector.apply(whole):
        together = unet(*inputs).sample
    for i in range(2):
        rows = {name: getattr(whole, name)[i : i + 1] for name in ("foreground", "token_indicator", "strength")}
        with injector.apply(MaskInjection(**rows)):
            alone = unet(*(each[i : i + 1] for each in inputs)).sample
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)


def test_bias_is_the_method_s() -> None:
    whole = injection(batch=1, grid=(3, 2), strength=2.5)
    p = whole.foreground.flatten()
    a, b = whole.factors(0, cross=False)
    like = p[:, None] * p[None] + (1 - p)[:, None] * (1 - p)[None]
    torch.testing.assert_close((a @ b.mT)[0], 2.5 * like)
    a, b = whole.factors(0, cross=True)
    label, background = whole.token_indicator[0].unbind(1)
    torch.testing.assert_close((a @ b.mT)[0], 2.5 * (p[:, None] * label[None] + (1 - p)[:, None] * background[None]))


def test_self_and_cross_strength_are_apart() -> None:
    whole = MaskInjection(
        foreground=torch.ones(1, 1, 2, 2), token_indicator=torch.ones(1, TOKENS, 2), strength=torch.tensor([[2.0, 7.0]])
    )
    assert (whole.factors(0, cross=False)[0].max(), whole.factors(0, cross=True)[0].max()) == (2, 7)


def test_masks_are_averaged_to_the_layer_s_grid() -> None:
    foreground = torch.arange(15.0).view(1, 1, 3, 5) / 15
    whole = MaskInjection(foreground=foreground, token_indicator=torch.zeros(1, 1, 2), strength=torch.ones(1, 2))
    p = foreground[0, 0]
    rows = [[p[i : i + 2, j : j + 2].mean() for j in (0, 2, 4)] for i in (0, 2)]
    expected = torch.tensor(rows).flatten()
    torch.testing.assert_close(whole.sides(1)[0], torch.stack([expected, 1 - expected], 1))
    assert whole.sides(2).shape == (1, 2, 2)


def test_strong_injection_keeps_attention_on_its_own_side() -> None:
    q, k = torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 4, 8)
    v = torch.tensor([1.0, 3.0, 10.0, 20.0]).view(1, 1, 4, 1)
    sides = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])[None]
    output = attend_naive(q, k, v, 50 * sides, sides, 1.0)
    torch.testing.assert_close(output.flatten(), torch.tensor([2.0, 2.0, 15.0, 15.0]))


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm_num_groups": 4, "residual_connection": True, "rescale_output_factor": 2.0, "bias": True},
        {"upcast_attention": True, "out_bias": False, "heads": 1, "dim_head": 12},
    ],
)
def test_layer_follows_diffusers_processor(options: dict[str, object], cross: bool) -> None:
    torch.manual_seed(0)
    layer = Attention(16, **({"heads": 4, "dim_head": 8, "cross_attention_dim": 6 if cross else None} | options))
    layer = layer.eval().requires_grad_(False)
    states = torch.randn(2, TOKENS, 6) if cross else None
    injector = MaskInjector()
    processor = MaskInjectionProcessor(injector, "layer", 0, attend_naive)
    for hidden in (torch.randn(2, 48, 16), torch.randn(2, 16, 8, 6)):
        expected = AttnProcessor2_0()(layer, hidden, states)
        with injector.apply(injection(strength=0)):
            torch.testing.assert_close(processor(layer, hidden, states), expected, rtol=0, atol=1e-5)


def test_levels_follow_the_unet(unet: UNet2DConditionModel) -> None:
    inject_masks(unet)
    levels = {name.split(".attentions")[0]: each.level for name, each in unet.attn_processors.items()}
    assert levels == {"down_blocks.0": 0, "down_blocks.1": 1, "mid_block": 1, "up_blocks.0": 1, "up_blocks.1": 0}


def test_switch_goes_back_after_an_error(unet: UNet2DConditionModel) -> None:
    injector = inject_masks(unet)
    outer = injection()
    with injector.apply(outer):
        with pytest.raises(RuntimeError), injector.apply(injection()):
            raise RuntimeError
        assert injector.injection is outer
    assert injector.injection is None


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ShapeError, match=r"token_indicator: expected shape \(2, 'T', 2\); got \(2, 5\)"):
        MaskInjection(foreground=torch.ones(2, 1, 4, 4), token_indicator=torch.ones(2, 5), strength=torch.ones(2, 2))


def test_attention_mask_is_refused(unet: UNet2DConditionModel) -> None:
    with inject_masks(unet).apply(injection()), pytest.raises(SettingsError, match="attention mask"):
        unet(*unet_inputs(), encoder_attention_mask=torch.ones(2, TOKENS))


def test_foreign_attention_is_refused(unet: UNet2DConditionModel) -> None:
    unet.set_attn_processor(lambda *inputs: inputs)
    with pytest.raises(ExportError, match="expected Stable Diffusion's AttnProcessor2_0"):
        inject_masks(unet)
