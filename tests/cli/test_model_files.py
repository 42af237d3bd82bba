"""Files given as models: refused with what they are and what to do."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from segrefine.cli.models import find_model
from segrefine.errors import ExportError


@pytest.mark.parametrize(
    ("tensor", "message", "hint"),
    [
        ("unet.down_blocks.0.attn1.to_q.lora_A.weight", "holds a LoRA", "fuse_lora"),
        ("lora_unet_down_blocks_0.lora_up.weight", "holds a LoRA", "fuse_lora"),
        ("control_model.input_blocks.0.0.weight", "holds a ControlNet", "the model itself"),
        ("controlnet_cond_embedding.conv_in.weight", "holds a ControlNet", "the model itself"),
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


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\xff" * 20, b"\x02" + bytes(7) + b"[]", b"\x05" + bytes(7) + b"{{{{{"]
)
def test_what_is_called_safetensors_and_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ExportError, match="is no model"):
        find_model(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("name", ["model.ckpt", "model.PT", "pytorch_model.bin"])
def test_pickles_are_never_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
    with pytest.raises(ExportError, match="is a pickle") as refused:
        find_model(str(tmp_path / name))
    assert "from_single_file" in str(refused.value.hint)
