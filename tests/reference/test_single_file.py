"""A model in one file is the model of the folder that it was made from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from segrefine.errors import ExportError
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.reference.single_file import configuration_of
from segrefine.reference.weight_files import SingleFile
from tests.single_file import write_single_file, write_text_encoders


@pytest.fixture(scope="module")
def file(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_single_file(tiny_checkpoint, tmp_path_factory.mktemp("single") / "model.safetensors")


@pytest.fixture(scope="module")
def config(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint's folder without its weights."""
    folder = tmp_path_factory.mktemp("config") / "config"
    return shutil.copytree(tiny_checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors"))


@pytest.mark.parametrize("dtype", [torch.float32, None])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_every_part_is_the_folder_s(
    tiny_checkpoint: Path, file: Path, config: Path, part: str, dtype: torch.dtype | None
) -> None:
    single = load_checkpoint(SingleFile(file, config), dtype).load(part).state_dict()
    expected = load_checkpoint(tiny_checkpoint, dtype).load(part).state_dict()
    assert single.keys() == expected.keys()
    assert all(single[name].dtype == each.dtype and torch.equal(single[name], each) for name, each in expected.items())


@pytest.mark.parametrize("family", ["2.x", "xl"])
def test_text_encoders_of_open_clip(
    tiny_checkpoint: Path, tiny_xl_checkpoint: Path, family: str, tmp_path: Path
) -> None:
    folder = tiny_xl_checkpoint if family == "xl" else tiny_checkpoint
    single = SingleFile(write_text_encoders(folder, tmp_path / "model.safetensors"), folder)
    for part in sorted(path.name for path in folder.glob("text_encoder*")):
        loaded = load_checkpoint(single).load(part).state_dict()
        expected = load_checkpoint(folder).load(part).state_dict()
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[name], each) for name, each in expected.items())


@pytest.mark.parametrize("name", ["cond_stage_model.transformer.", "conditioner.embedders.0.transformer."])
def test_text_encoders_without_their_wrapper_s_name(
    tiny_checkpoint: Path, tiny_xl_checkpoint: Path, name: str, tmp_path: Path
) -> None:
    """Some programs leave `text_model.` out. The weights are those that diffusers reads from the file that has it."""
    folder = tiny_xl_checkpoint if name.startswith("conditioner") else tiny_checkpoint
    texts = load_file(next((folder / "text_encoder").glob("*.safetensors")))
    bare = {key.removeprefix("text_model."): each for key, each in texts.items()}
    others = (
        load_file(write_text_encoders(tiny_xl_checkpoint, tmp_path / "xl.safetensors"))
        if folder != tiny_checkpoint
        else {}
    )
    others = {key: each for key, each in others.items() if not key.startswith(name)}
    save_file(others | {f"{name}{key}": each for key, each in bare.items()}, tmp_path / "bare.safetensors")
    whole = others | {f"{name}text_model.{key}": each for key, each in bare.items()}
    theirs = single_file_utils.create_diffusers_clip_model_from_ldm(
        CLIPTextModel,
        whole,
        config=str(folder),
        subfolder="text_encoder",
        torch_dtype=torch.float32,
        local_files_only=True,
    ).state_dict()
    found = load_checkpoint(SingleFile(tmp_path / "bare.safetensors", folder)).text_encoder.state_dict()
    assert found.keys() == theirs.keys()
    assert all(torch.equal(found[key], each) for key, each in theirs.items())


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_parts_are_those_of_diffusers_own_loader(file: Path, config: Path, part: str) -> None:
    kind = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part]
    options = {"config": str(config), "subfolder": part, "torch_dtype": torch.float32, "local_files_only": True}
    theirs = kind.from_single_file(load_file(file), **options).state_dict()
    found = load_checkpoint(SingleFile(file, config)).load(part).state_dict()
    assert found.keys() == theirs.keys()
    assert all(torch.equal(found[name], each) for name, each in theirs.items())


def test_a_file_names_whose_configuration_it_has(file: Path) -> None:
    assert configuration_of(file) == "stable-diffusion-v1-5/stable-diffusion-v1-5"


def test_missing_weights_are_found(file: Path, config: Path, tmp_path: Path) -> None:
    weights = load_file(file)
    del weights["model.diffusion_model.out.2.weight"]
    save_file(weights, tmp_path / "cut.safetensors")
    with pytest.raises(ExportError, match=r"cut\.safetensors lacks .*unet") as caught:
        load_checkpoint(SingleFile(tmp_path / "cut.safetensors", config)).unet  # noqa: B018  # read to be loaded
    assert "--config" in str(caught.value.hint)


def test_a_configuration_of_another_architecture(tiny_xl_checkpoint: Path, file: Path) -> None:
    with pytest.raises(ExportError, match="cannot load unet|lacks the unet's"):
        load_checkpoint(SingleFile(file, tiny_xl_checkpoint)).unet  # noqa: B018
