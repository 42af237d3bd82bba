from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils.logging import disable_progress_bar

from segrefine.errors import ExportError
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.runtime.words.tokenizer import ClipTokenizer
from tests.tiny_checkpoint import TOKENS


def test_parts_are_ready_for_inference(tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    for part in (checkpoint.unet, checkpoint.vae, checkpoint.text_encoder):
        assert not part.training
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in part.parameters())
    assert (checkpoint.vae_scale_factor, checkpoint.prediction_type) == (2, "v_prediction")
    letters = [checkpoint.tokenizer.convert_tokens_to_ids(each) for each in ("a", "b</w>")]
    assert checkpoint.tokenizer("ab").input_ids == [512, *letters, 513]


def test_half_precision_weights_are_widened(tiny_checkpoint: Path) -> None:
    stored = load_file(tiny_checkpoint / "unet" / "diffusion_pytorch_model.safetensors")
    weights = load_checkpoint(tiny_checkpoint).unet.state_dict()
    assert stored["conv_in.weight"].dtype == torch.float16
    assert all(torch.equal(weights[name], tensor.float()) for name, tensor in stored.items())


def test_a_half_precision_variant_is_found(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "variant")
    for weights in folder.glob("*/*.safetensors"):
        weights.rename(weights.with_suffix(".fp16.safetensors"))
    expected = load_checkpoint(tiny_checkpoint).unet.state_dict()
    assert all(torch.equal(each, expected[name]) for name, each in load_checkpoint(folder).unet.state_dict().items())


@pytest.mark.parametrize("variant", ["fp32", "bf16"])
def test_any_variant_of_whole_numbers_is_found(tiny_checkpoint: Path, tmp_path: Path, variant: str) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "variant")
    for weights in folder.glob("*/*.safetensors"):
        weights.rename(weights.with_suffix(f".{variant}.safetensors"))
    expected = load_checkpoint(tiny_checkpoint).unet.state_dict()
    assert all(torch.equal(each, expected[name]) for name, each in load_checkpoint(folder).unet.state_dict().items())


def test_other_variants_are_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "variant")
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".non_ema.safetensors"))
    with pytest.raises(ExportError, match=r"diffusion_pytorch_model\.safetensors is missing") as refused:
        load_checkpoint(folder)
    assert "rename it" in str(refused.value.hint) and "model.non_ema.safetensors" in str(refused.value.hint)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_texts_with_byte_order_marks(tiny_checkpoint: Path, tmp_path: Path, encoding: str) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "marked")
    for text in (*folder.rglob("*.json"), *folder.rglob("*.txt")):
        text.write_bytes(text.read_text(encoding="utf-8").encode(encoding))
    found, expected = load_checkpoint(folder), load_checkpoint(tiny_checkpoint)
    assert found.scheduler_config == expected.scheduler_config
    assert found.tokenizer("a Fox!").input_ids == expected.tokenizer("a Fox!").input_ids
    for part in ("unet", "vae", "text_encoder"):
        weights = found.load(part).state_dict()
        assert all(torch.equal(weights[name], each) for name, each in expected.load(part).state_dict().items())


@pytest.mark.parametrize("settings", [{}, {"model_max_length": 10**30}, None])
def test_a_tokenizer_without_a_length_has_its_encoder_s(
    tiny_checkpoint: Path, tmp_path: Path, settings: dict[str, int] | None
) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    file = folder / "tokenizer/tokenizer_config.json"
    content = json.loads(file.read_text())
    del content["model_max_length"]
    file.unlink()
    if settings is not None:
        file.write_text(json.dumps(content | settings))
    found, expected = load_checkpoint(folder), load_checkpoint(tiny_checkpoint)
    assert found.tokenizer.model_max_length == found.text_encoder.config.max_position_embeddings == TOKENS
    ids = [each.tokenizer("ab", padding="max_length", truncation=True).input_ids for each in (found, expected)]
    assert ids[0] == ids[1] and len(ids[0]) == TOKENS
    found.tokenizer.save_pretrained(tmp_path / "bundle")
    assert ClipTokenizer.from_folder(tmp_path / "bundle").length == TOKENS


def edit(file: str, **values: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))

    return apply


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def drop_tensor(file: str, name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        weights = load_file(folder / file)
        del weights[name]
        save_file(weights, folder / file)

    return apply


def cut(file: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / file, 20)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("model_index.json"), "model_index.json is missing: expected a diffusers checkpoint"),
        (
            edit("model_index.json", text_encoder_2=["transformers", "CLIPTextModelWithProjection"]),
            "has text_encoder and text_encoder_2, and Stable Diffusion 1",
        ),
        (edit("unet/config.json", addition_embed_type="image"), "unknown architecture: .* addition_embed_type 'image'"),
        (edit("unet/config.json", class_embed_type="timestep"), "unknown architecture: .* class_embed_type 'timestep'"),
        (drop_tensor("unet/diffusion_pytorch_model.safetensors", "conv_out.bias"), "conv_out.bias is missing"),
        (remove("scheduler"), "scheduler/scheduler_config.json is missing"),
        (edit("unet/config.json", sample_size=None), "expected a sample_size .* got None"),
        (edit("unet/config.json", sample_size=[64, 96]), r"expected a sample_size .* got \[64, 96\]"),
        (
            edit("tokenizer/tokenizer_config.json", model_max_length=77),
            "has a model_max_length of 77, and its text encoder has max_position_embeddings 16",
        ),
        (remove("vae"), "vae/config.json is missing"),
        (remove("tokenizer"), "no CLIP tokenizer .vocab.json and merges.txt"),
        (cut("tokenizer/vocab.json"), "no CLIP tokenizer"),
        (edit("unet/config.json", in_channels=9), "takes 9 channels, and the VAE's latents have 4: .* inpainting"),
        (remove("unet/diffusion_pytorch_model.safetensors"), "diffusion_pytorch_model.safetensors is missing"),
        (edit("unet/config.json", _class_name="UNet3D"), "expected UNet2DConditionModel, got UNet3D"),
        (edit("text_encoder/config.json", architectures=["T5"]), "expected CLIPTextModel, got T5"),
        (edit("unet/config.json", block_out_channels=[8, 16]), "cannot load .*unet as UNet2DConditionModel"),
        (cut("model_index.json"), "model_index.json: it cannot be read as JSON"),
        (cut("vae/diffusion_pytorch_model.safetensors"), "is truncated: expected more than .* bytes, got 20"),
        (edit("text_encoder/config.json", num_attention_heads=3), "cannot load .* as CLIPTextModel: (.|\\n)*heads .3"),
        (edit("text_encoder/config.json", hidden_size=64), r"has the shape \(.*32.*\), and config.json asks for"),
    ],
)
def test_damaged_checkpoints_are_named(
    tiny_checkpoint: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "damaged")
    damage(folder)
    with pytest.raises(ExportError, match=message) as caught:
        checkpoint = load_checkpoint(folder)
        assert checkpoint.unet and checkpoint.vae and checkpoint.text_encoder  # loaded when they are read
    assert caught.value.hint


def test_no_library_reports(tiny_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    disable_progress_bar()  # as the command does
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "damaged")
    edit("text_encoder/config.json", hidden_size=64)(folder)
    with pytest.raises(ExportError, match=r"config\.json asks for"):
        load_checkpoint(folder).text_encoder  # noqa: B018  # read to be loaded
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def sharded(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "sharded")
    for weights in (folder / "unet").glob("*.safetensors"):
        weights.unlink()
    load_checkpoint(tiny_checkpoint, None).unet.save_pretrained(folder / "unet", max_shard_size="100KB")
    return folder


def test_shards_are_joined(tiny_checkpoint: Path, sharded: Path) -> None:
    expected, found = (load_checkpoint(folder).unet.state_dict() for folder in (tiny_checkpoint, sharded))
    assert len(list((sharded / "unet").glob("*.safetensors"))) > 1
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], each) for name, each in expected.items())


def test_shards_that_do_not_match_their_index(sharded: Path) -> None:
    first, second, *_ = sorted((sharded / "unet").glob("*.safetensors"))
    shutil.copy(second, first)
    with pytest.raises(ExportError, match=rf"{first.name} lacks .*index\.json says it has"):
        load_checkpoint(sharded)
    first.unlink()
    with pytest.raises(ExportError, match=rf"{first.name} is missing: .*index\.json lists it"):
        load_checkpoint(sharded)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="nowhere: .*expected a diffusers checkpoint"):
        load_checkpoint(tmp_path / "nowhere")
