"""Maps of attention: read from the layers that say most, held against diffusers' own way to compute attention."""

import pytest
import torch

from segrefine.errors import ExportError
from segrefine.reference.attention import inject_masks
from segrefine.reference.attention_maps import AttentionRecord, MapLevels, find_map_levels, grid_at
from segrefine.reference.checkpoint import load_checkpoint
from tests.reference.test_attention import injection, unet_inputs

CROSS, PLAIN = "CrossAttnUpBlock2D", "UpBlock2D"


@pytest.mark.parametrize(
    ("side", "blocks", "expected"),
    [
        (64, (PLAIN, CROSS, CROSS, CROSS), MapLevels(words=2, places=1)),  # Stable Diffusion 1.x and 2.x base
        (96, (PLAIN, CROSS, CROSS, CROSS), MapLevels(words=2, places=1)),  # 2.1
        (128, (CROSS, CROSS, PLAIN), MapLevels(words=2, places=2)),  # XL
        (16, (CROSS, CROSS), MapLevels(words=0, places=0)),  # the demo
    ],
)
def test_levels_are_those_that_the_papers_read(side, blocks, expected):
    assert find_map_levels({"sample_size": side, "up_block_types": blocks}) == expected


def test_a_unet_without_attention_on_the_way_up_is_named():
    with pytest.raises(ExportError, match="CrossAttnUpBlock2D among its up_block_types, got UpBlock2D, UpBlock2D"):
        find_map_levels({"sample_size": 64, "up_block_types": (PLAIN, PLAIN)})


@pytest.mark.parametrize("grid", [(8, 6), (7, 5)])
@pytest.mark.parametrize("levels", [MapLevels(words=0, places=0), MapLevels(words=1, places=0)])
def test_maps_are_the_attention_that_diffusers_computes(tiny_checkpoint, grid, levels):
    unet = load_checkpoint(tiny_checkpoint).unet
    given, inputs = injection(grid=grid, strength=0), unet_inputs(grid=grid)
    words, places = expected_maps(unet, inputs, given.token_indicator, levels)
    record = AttentionRecord(levels=levels, depth=2)
    with torch.no_grad(), inject_masks(unet).apply(given, record):
        unet(*inputs)
    found_words, found_places = record.maps(grid)
    assert found_words.shape == (2, *grid_at(grid, levels.places))
    torch.testing.assert_close(found_places.sum(-1), torch.ones(found_places.shape[:2]))
    torch.testing.assert_close(found_places, places, rtol=0, atol=1e-5)
    if levels.words == levels.places:
        torch.testing.assert_close(found_words.flatten(1), words, rtol=0, atol=1e-5)


def expected_maps(unet, inputs, indicator, levels):
    """Means over heads and layers of the way up, by `Attention.get_attention_scores` on what each layer is given."""
    words, places = [], []

    def watch(name, layer):
        def keep(module, args, kwargs):
            rows, context = args[0], kwargs.get("encoder_hidden_states")
            q = module.head_to_batch_dim(module.to_q(rows))
            k = module.head_to_batch_dim(module.to_k(rows if context is None else context))
            shares = module.get_attention_scores(q, k).unflatten(0, (len(rows), module.heads)).mean(1)
            if context is None:
                places.append(shares)
            else:
                label = indicator[:, :, :1]
                words.append((shares @ label / label.sum(1, keepdim=True).clamp(min=1))[..., 0])

        return layer.register_forward_pre_hook(keep, with_kwargs=True)

    def at(level):
        return f"up_blocks.{1 - level}."

    handles = [
        watch(name, layer)
        for name, layer in unet.named_modules()
        if (name.endswith("attn1") and name.startswith(at(levels.places)))
        or (name.endswith("attn2") and name.startswith(at(levels.words)))
    ]
    with torch.no_grad():
        unet(*inputs)
    for handle in handles:
        handle.remove()
    return torch.stack(words).mean(0), torch.stack(places).mean(0)
