"""Every family of models, tiny: exported, and every component and step of both loops held against torch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, UNet2DConditionModel

from segrefine.bundle import Bundle
from segrefine.engines import load_engine
from segrefine.export import export_bundle
from segrefine.export.comparison import ParityScene
from segrefine.export.parity import check_parity
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.reference.families import GUIDANCE_EMBEDDED
from segrefine.reference.label_codec import VaeCodec, write_codec
from segrefine.reference.text import guidance_embedding
from segrefine.settings import G4SegSettings
from tests.tiny_checkpoint import TINY_UNET, write_tiny_checkpoint


def scene() -> ParityScene:
    rng = np.random.default_rng(0)
    coarse = np.zeros((20, 28), np.float32)
    coarse[4:14, 6:20] = 1
    return ParityScene(image=rng.integers(0, 255, (20, 28, 3)).astype(np.uint8), coarse=coarse, label="fox")


def test_sdxl_runs_as_in_torch(tiny_xl_checkpoint: Path, tmp_path: Path) -> None:
    bundle = export_bundle(tiny_xl_checkpoint, tmp_path / "bundle")
    assert bundle.manifest.feature_taps == ("up_blocks.0.attentions.0",)
    assert bundle.manifest.settings["feature_timestep"] == G4SegSettings().feature_timestep  # no source for another
    rows = list(check_parity(bundle.path, tiny_xl_checkpoint, [scene()]))
    assert {row.component for row in rows} >= bundle.manifest.graphs.keys() | {"one-step", "loop"}
    assert [row for row in rows if not row.ok] == []
    assert max(row.error for row in rows if row.component in bundle.manifest.graphs) < 1e-5


DENOISERS: dict[str, dict[str, Any]] = {
    # Segmind Vega and SSD-1B leave out attention in the middle, and layers of some transformers
    "pruned sdxl": {
        "xl": True,
        "unet": {
            "mid_block_type": None,
            "transformer_layers_per_block": (1, (2,)),
            "reverse_transformer_layers_per_block": ((2, 1), 1),
        },
    },
    "told its guidance, as lcm": {"unet": {"time_cond_proj_dim": 16}},
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", DENOISERS.values(), ids=DENOISERS)
def test_other_denoisers_are_exported(variant: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint", **variant)
    bundle = export_bundle(checkpoint, tmp_path / "bundle", components=["unet"], atol=1e-5)
    assert bundle.manifest.graphs.keys() == {"unet"}


def test_guidance_is_embedded_as_diffusers_does() -> None:
    unet = UNet2DConditionModel(**TINY_UNET | {"time_cond_proj_dim": 17})
    ours = guidance_embedding(unet, 2)
    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(
        None, torch.full((2,), GUIDANCE_EMBEDDED), embedding_dim=17
    )
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)  # of sines of 7500, in float32


VAES: dict[str, dict[str, Any]] = {
    "a shift": {"scaling_factor": 0.6, "shift_factor": 0.3},
    "statistics": {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [0.9, 1.1, 2.0, 0.5]},
}


@pytest.mark.parametrize("changes", VAES.values(), ids=VAES)
def test_latents_have_their_own_range(changes: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint", **changes)
    bundle = export_bundle(checkpoint, tmp_path / "bundle", components=["vae_encoder", "vae_decoder"])
    vae = load_checkpoint(checkpoint).vae
    mean, std = (
        np.reshape(changes.get(name, default), (1, -1, 1, 1)).astype(np.float32)
        for name, default in (("latents_mean", changes.get("shift_factor", 0)), ("latents_std", 1))
    )
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 8, 8)).astype(np.float32)
    plain = vae.encode(torch.from_numpy(image)).latent_dist.mean.numpy()
    with (
        load_engine(bundle, "vae_encoder", "onnxruntime") as encode,
        load_engine(bundle, "vae_decoder", "onnxruntime") as decode,
    ):
        latents = encode({"sample": image})["latent_sample"]
        np.testing.assert_allclose(latents, (plain - mean) / std * vae.config.scaling_factor, atol=1e-5)
        np.testing.assert_allclose(
            decode({"latent_sample": latents})["sample"], vae.decode(torch.from_numpy(plain)).sample.numpy(), atol=1e-5
        )


def test_the_second_encoder_pads_as_its_own_tokenizer_does(tiny_xl_checkpoint: Path, tmp_path: Path) -> None:
    bundle = export_bundle(tiny_xl_checkpoint, tmp_path / "bundle", components=["text_encoder_2"])
    inputs = bundle.manifest.components["text_encoder_2"]
    assert [tensor.name for tensor in inputs.outputs] == ["hidden_states", "text_embeds"]
    assert bundle.file("tokenizer_2/tokenizer.json").is_file()


@pytest.mark.slow
def test_a_label_diffusion_model_of_the_size_of_sdxl(tiny_xl_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    shutil.copytree(tiny_xl_checkpoint, folder, ignore=shutil.ignore_patterns("unet"))
    whole = load_checkpoint(tiny_xl_checkpoint)
    torch.manual_seed(3)
    config = dict(whole.configs["unet"]) | {"in_channels": 8}
    UNet2DConditionModel.from_config(config).half().save_pretrained(folder / "label_denoiser")
    write_codec(VaeCodec(vae=whole.vae, scale=0.5), folder)
    bundle = export_bundle(folder, tmp_path / "bundle")
    assert bundle.manifest.graphs.keys() == {
        "text_encoder", "text_encoder_2", "vae_encoder", "vae_decoder", "label_denoiser",
    }  # fmt: skip
    assert [row for row in check_parity(bundle.path, folder, [scene()]) if not row.ok] == []


@pytest.mark.slow
def test_half_precision_of_sdxl(tiny_xl_checkpoint: Path, tmp_path: Path) -> None:
    bundle = export_bundle(tiny_xl_checkpoint, tmp_path / "bundle", dtype="fp16", components=["unet", "unet_features"])
    stored = sum(file.stat().st_size for file in tiny_xl_checkpoint.glob("unet/*.safetensors"))
    assert Bundle.open(bundle.path).manifest.files["unet/model.onnx_data"].size < 1.3 * stored
