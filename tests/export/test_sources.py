"""Files given as models: refused with what they are and what to do."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from segrefine.errors import ExportError
from segrefine.export.sources import find_model


@pytest.mark.parametrize(
    ("tensor", "message", "hint"),
    [
        ("unet.down_blocks.0.attn1.to_q.lora_A.weight", "got a LoRA", "fuse_lora"),
        ("base_model.model.down_blocks.0.attn1.to_q.hada_w1_a", "got a LyCORIS adapter", "fuse_lora"),
        ("lora_unet_double_blocks_0_img_attn.lokr_w1", "got a LoRA", "fuse_lora"),
        ("lora_unet_down_blocks_0.lora_up.weight", "got a LoRA", "fuse_lora"),
        ("control_model.input_blocks.0.0.weight", "got a ControlNet", "the model itself"),
        ("controlnet_cond_embedding.conv_in.weight", "got a ControlNet", "the model itself"),
        ("zero_convs.0.0.weight", "got a ControlNet", "the model itself"),
        ("image_proj.proj.weight", "got an IP-Adapter", "the model itself"),
        ("model.diffusion_model.joint_blocks.0.attn.weight", "got a transformer", "1.x, 2.x and XL"),
        ("emb_params", "textual inversion", "the model itself"),
        ("model.diffusion_model.input_blocks.0.0.weight", "lacks the image codec and the text encoder", "whole model"),
        ("conv_in.weight", "the weights of one part, such as 'conv_in.weight'", "model_index.json"),
    ],
)
def test_safetensors(tensor: str, message: str, hint: str, tmp_path: Path) -> None:
    save_file({tensor: np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ExportError, match=message) as refused:
        find_model(str(tmp_path / "model.safetensors"))
    assert hint in str(refused.value.hint)


@pytest.mark.parametrize(("content", "message"), [(b"x", "is truncated"), (b"\xff" * 20, "is not a safetensors file")])
def test_what_is_called_safetensors_and_is_none(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ExportError, match=message):
        find_model(str(tmp_path / "model.safetensors"))


def test_an_empty_word_is_no_folder() -> None:
    with pytest.raises(ExportError, match="MODEL: expected a name, got nothing"):
        find_model("")


def write(folder: Path, name: str, content: str | list[str]) -> None:
    """Writes a file of text, or safetensors with tensors of some names."""
    if isinstance(content, str):
        (folder / name).write_text(content)
    else:
        save_file({tensor: np.zeros(3, np.float32) for tensor in content}, folder / name)


@pytest.mark.parametrize(
    ("files", "message", "hint"),
    [
        ({"pytorch_lora_weights.safetensors": ["unet.to_q.lora_A.weight"]}, "got a LoRA", "fuse_lora"),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": ["to_q.lora_A.weight"]}, "got a LoRA", "fuse"),
        (
            {"config.json": '{"_class_name": "ControlNetModel"}', "other.safetensors": ["conv_in.bias"]},
            "got a ControlNet",
            "the model itself",
        ),
        (
            {"config.json": '{"_class_name": "AutoencoderKL"}'},
            "got a part of the class AutoencoderKL",
            "model_index.json",
        ),
        (
            {"config.json": '{"architectures": ["CLIPTextModel"]}'},
            "got a part of the class CLIPTextModel",
            "save_pretrained",
        ),
        ({"sd.ckpt": "pickled"}, "sd.ckpt: reading a pickle runs", "from_single_file"),
        (
            {"a.safetensors": ["model.diffusion_model.a", "first_stage_model.a", "cond_stage_model.a"]},
            "a.safetensors is a model",
            "a.safetensors",
        ),
        ({"model_index.json": "{}", "segrefine.json": "{}"}, "got a bundle", "exported from"),
        ({"config.json": "[]"}, "model_index.json is missing", "save_pretrained"),
        ({}, "model_index.json is missing", "save_pretrained"),
    ],
)
def test_folders(files: dict[str, str | list[str]], message: str, hint: str, tmp_path: Path) -> None:
    for name, content in files.items():
        write(tmp_path, name, content)
    with pytest.raises(ExportError, match=message) as refused:
        find_model(str(tmp_path))
    assert hint in str(refused.value.hint)


def test_a_part_of_a_model(tiny_checkpoint: Path) -> None:
    with pytest.raises(ExportError, match="unet: expected a whole model, got one part") as refused:
        find_model(str(tiny_checkpoint / "unet"))
    assert str(tiny_checkpoint) in str(refused.value.hint)


def test_gguf_is_quantized(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ExportError, match="got quantized weights .GGUF.") as refused:
        find_model(tmp_path / "model.gguf")
    assert "float16" in str(refused.value.hint)


@pytest.mark.parametrize("name", ["model.ckpt", "model.PT", "pytorch_model.bin"])
def test_pickles_are_never_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
    with pytest.raises(ExportError, match="got a pickle") as refused:
        find_model(str(tmp_path / name))
    assert "from_single_file" in str(refused.value.hint)
