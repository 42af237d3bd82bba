"""Checkpoints with a second denoising branch are refused, and not taken for half of themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from segrefine.errors import ExportError
from segrefine.reference.branches import find_branches
from segrefine.reference.checkpoint import load_checkpoint, load_label_checkpoint
from segrefine.reference.configs import read_configs


def add_part(folder: Path, name: str, kind: str, *, listed: bool) -> None:
    (folder / name).mkdir()
    (folder / name / "config.json").write_text(json.dumps({"_class_name": kind}))
    if listed:
        index = folder / "model_index.json"
        index.write_text(json.dumps(json.loads(index.read_text()) | {name: ["diffusers", kind]}))


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("controlnet", "ControlNetModel"), ("spatial_unet", "UNet2DConditionModel"), ("adapter", "T2IAdapter")],
)
def test_label_models_with_another_branch(listed, name, kind, tiny_label_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_label_checkpoint, tmp_path / "gs")
    assert find_branches(folder, "label_denoiser") == {}
    add_part(folder, name, kind, listed=listed)
    for read in (read_configs, load_label_checkpoint):
        with pytest.raises(
            ExportError, match=rf"label_denoiser and a second branch beside it: {name} \({kind}\)"
        ) as no:
            read(folder)
        assert "one UNet that takes image and label latents joined" in str(no.value.hint)
        assert "would be needed" in str(no.value.hint)


def test_text_to_image_models_with_another_branch(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "sd")
    add_part(folder, "controlnet", "ControlNetModel", listed=False)
    with pytest.raises(ExportError, match=r"second branch beside it: controlnet") as refused:
        load_checkpoint(folder)
    assert "move it to a folder without that" in str(refused.value.hint)


def test_averaged_weights_and_other_files_are_no_branch(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "sd")
    add_part(folder, "unet_ema", "UNet2DConditionModel", listed=False)
    add_part(folder, "safety_checker", "StableDiffusionSafetyChecker", listed=False)
    assert load_checkpoint(folder).configs["unet"]["in_channels"]


def test_a_unet_that_takes_twice_the_latents_may_be_a_label_model(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "sd")
    file = folder / "unet/config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"in_channels": 2 * config["in_channels"]}))
    with pytest.raises(ExportError) as refused:
        load_checkpoint(folder)
    assert "rename unet to label_denoiser and add label_codec/config.json" in str(refused.value.hint)
