"""A tiny checkpoint under the names that Stable Diffusion's authors gave its tensors."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Weights = dict[str, Tensor]

_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
_OUTER = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
}  # fmt: skip
_OPEN_CLIP = {
    "embeddings.token_embedding": "token_embedding", "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final", "encoder.layers": "transformer.resblocks", "layer_norm1": "ln_1",
    "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip


def write_text_encoders(folder: Path, target: Path) -> Path:
    """Writes the text encoders of a tiny checkpoint alone, as files of Stable Diffusion 2.x have them, or of XL.

    Args:
        folder: the checkpoint; with two text encoders it is one of XL.
        target: the file.
    """
    parts = {path.parent.name: load_file(path) for path in folder.glob("text_encoder*/*.safetensors")}
    if "text_encoder_2" in parts:
        prefix = "conditioner.embedders.0.transformer.text_model."
        weights = {prefix + _bare(name): each for name, each in parts["text_encoder"].items()}
        weights |= _open_clip(parts["text_encoder_2"], "conditioner.embedders.1.model.")
    else:
        weights = _open_clip(parts["text_encoder"], "cond_stage_model.model.")
    save_file({name: each.contiguous() for name, each in weights.items()}, target)
    return target


def write_single_file(folder: Path, target: Path) -> Path:
    """Writes the checkpoint of `write_tiny_checkpoint`, two levels of one layer each, with one text encoder.

    Args:
        folder: the checkpoint.
        target: the file.
    """
    parts = {path.parent.name: load_file(path) for path in folder.glob("*/*.safetensors")}
    weights = {f"model.diffusion_model.{name}": each for name, each in _unet(parts["unet"]).items()}
    weights |= {f"first_stage_model.{name}": each for name, each in _vae(parts["vae"]).items()}
    encoder = "cond_stage_model.transformer.text_model."
    weights |= {encoder + name.removeprefix("text_model."): each for name, each in parts["text_encoder"].items()}
    save_file({name: each.contiguous() for name, each in weights.items()}, target)
    return target


def _unet(weights: Weights) -> Weights:
    """Blocks are numbered through: one resnet with its attention each, then what changes the resolution."""
    places = {f"{theirs}.": f"{ours}." for theirs, ours in _OUTER.items()}
    for ours, theirs, attention in (
        ("down_blocks.0.{}.0", "input_blocks.1.{}", 1),
        ("down_blocks.1.{}.0", "input_blocks.3.{}", 1),
        ("up_blocks.0.{}.0", "output_blocks.0.{}", 1),
        ("up_blocks.0.{}.1", "output_blocks.1.{}", 1),
        ("up_blocks.1.{}.0", "output_blocks.2.{}", 1),
        ("up_blocks.1.{}.1", "output_blocks.3.{}", 1),
        ("mid_block.{}.0", "middle_block.{}", 1),
    ):
        places[theirs.format(attention) + "."] = ours.format("attentions") + "."
        for their_layer, our_layer in _RESNET.items():
            places[f"{theirs.format(0)}.{their_layer}."] = f"{ours.format('resnets')}.{our_layer}."
    for their_layer, our_layer in _RESNET.items():
        places[f"middle_block.2.{their_layer}."] = f"mid_block.resnets.1.{our_layer}."
    places["input_blocks.2.0.op."] = "down_blocks.0.downsamplers.0.conv."
    places["output_blocks.1.2.conv."] = "up_blocks.0.upsamplers.0.conv."
    return _renamed(weights, places)


def _vae(weights: Weights) -> Weights:
    """Levels of the decoder are counted from the finest; attention is of 1×1 convolutions."""
    places = {"quant_conv.": "quant_conv.", "post_quant_conv.": "post_quant_conv."}
    for side in ("encoder", "decoder"):
        places |= {f"{side}.{name}.": f"{side}.{name}." for name in ("conv_in", "conv_out")}
        places[f"{side}.norm_out."] = f"{side}.conv_norm_out."
        for number in (0, 1):
            places[f"{side}.mid.block_{number + 1}."] = f"{side}.mid_block.resnets.{number}."
        for theirs, ours in {
            "norm": "group_norm",
            "q": "to_q",
            "k": "to_k",
            "v": "to_v",
            "proj_out": "to_out.0",
        }.items():
            places[f"{side}.mid.attn_1.{theirs}."] = f"{side}.mid_block.attentions.0.{ours}."
    for level in (0, 1):
        places[f"encoder.down.{level}.block.0."] = f"encoder.down_blocks.{level}.resnets.0."
        for layer in (0, 1):
            places[f"decoder.up.{1 - level}.block.{layer}."] = f"decoder.up_blocks.{level}.resnets.{layer}."
    places["encoder.down.0.downsample.conv."] = "encoder.down_blocks.0.downsamplers.0.conv."
    places["decoder.up.1.upsample.conv."] = "decoder.up_blocks.0.upsamplers.0.conv."
    renamed = _renamed(weights, places)
    renamed = {name.replace("conv_shortcut", "nin_shortcut"): each for name, each in renamed.items()}
    convolved = re.compile(r"attn_1\.(q|k|v|proj_out)\.weight")
    return {name: each[..., None, None] if convolved.search(name) else each for name, each in renamed.items()}


def _open_clip(weights: Weights, prefix: str) -> Weights:
    """As OpenCLIP names it: queries, keys and values are one matrix, and the projection is transposed."""
    ours, theirs = {_bare(name): each for name, each in weights.items()}, {}
    for name, each in ours.items():
        if name == "text_projection.weight":
            theirs["text_projection"] = each.T
        elif ".q_proj." in name:
            joined = torch.cat([ours[name.replace("q_proj", f"{which}_proj")] for which in "qkv"])
            theirs[name.replace("self_attn.q_proj.", "attn.in_proj_")] = joined
        elif ".k_proj." not in name and ".v_proj." not in name:
            theirs[name] = each
    width = len(ours["final_layer_norm.weight"])
    theirs.setdefault("text_projection", torch.eye(width))  # those of 2.x have it, too, though nothing takes it
    for our, their in _OPEN_CLIP.items():
        theirs = {name.replace(our, their): each for name, each in theirs.items()}
    return {prefix + name: each for name, each in theirs.items()}


def _bare(name: str) -> str:
    return name.removeprefix("text_model.")


def _renamed(weights: Weights, places: dict[str, str]) -> Weights:
    """Every tensor under the name that `places`, theirs → ours, has for its prefix."""
    renamed: Weights = {}
    for theirs, ours in places.items():
        found = {name: each for name, each in weights.items() if name.startswith(ours)}
        assert found or "shortcut" in ours or "skip" in theirs, ours
        renamed |= {theirs + name.removeprefix(ours): each for name, each in found.items()}
    assert len(renamed) == len(weights)
    return renamed
