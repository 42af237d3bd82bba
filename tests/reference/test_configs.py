"""What is known of a checkpoint by its small files and its weights' headers, before PyTorch is loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from segrefine.errors import ExportError
from segrefine.reference.configs import read_configs

INDEX, SCHEDULE = "model_index.json", "scheduler/scheduler_config.json"
NO_TORCH = """
import sys; sys.modules["torch"] = None
from segrefine.reference.configs import read_configs
print(read_configs(sys.argv[1]).family.name)
"""


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


def edit(folder: Path, file: str, **values: Any) -> None:
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))


def test_it_takes_no_torch(tiny_xl_checkpoint: Path) -> None:
    command = [sys.executable, "-c", NO_TORCH, str(tiny_xl_checkpoint)]
    assert subprocess.check_output(command, text=True) == "Stable Diffusion XL\n"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prediction_type": "flow_prediction"}, "prediction_type: expected one of epsilon, .* got 'flow_prediction'"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule: expected one of"),
        ({"beta_start": "small"}, "is malformed"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler, whose noise levels"),
        ({"_class_name": "EDMEulerScheduler", "sigma_data": 0.5}, "EDMEulerScheduler, whose noise levels"),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "UniPCMultistepScheduler, whose noise"),
        ({"prediction_type": "epsilon", "rescale_betas_zero_snr": True}, "ends without any signal"),
    ],
)
def test_schedules_that_the_runtime_does_not_have(folder: Path, values: dict[str, Any], message: str) -> None:
    edit(folder, SCHEDULE, **values)
    with pytest.raises(ExportError, match=rf"scheduler_config\.json.*{message}") as refused:
        read_configs(folder)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("kind", "clips"),
    [("EulerDiscreteScheduler", False), ("DPMSolverMultistepScheduler", False), ("DDIMScheduler", True)],
)
def test_latents_are_clipped_where_the_scheduler_s_class_clips(folder: Path, kind: str, clips: bool) -> None:
    config = json.loads((folder / SCHEDULE).read_text())
    del config["clip_sample"]
    (folder / SCHEDULE).write_text(json.dumps(config | {"_class_name": kind}))
    assert read_configs(folder).scheduler_config.get("clip_sample", True) is clips


@pytest.mark.parametrize(("stored", "fits"), [("int8", 0), ("uint8", 0), ("float8_e4m3fn", 1), ("bfloat16", 1)])
def test_numbers_that_are_not_the_weights(folder: Path, stored: str, fits: bool) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = {name: each.to(getattr(torch, stored)) for name, each in load_file(file).items()}
    save_file(weights, file)
    if fits:
        assert read_configs(folder)
        return
    with pytest.raises(ExportError, match="holds quantized weights of the unet: .* floating-point numbers, got [IU]8"):
        read_configs(folder)


def test_a_configuration_of_quantized_weights(folder: Path) -> None:
    edit(folder, "unet/config.json", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(ExportError, match="holds quantized weights of the unet: its config"):
        read_configs(folder)


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("FluxPipeline", {"transformer": ["diffusers", "FluxTransformer2DModel"]}, "a FluxPipeline, with transformer"),
        (
            "StableDiffusion3Pipeline",
            {"transformer": ["diffusers", "SD3Transformer2D"], "text_encoder_3": ["transformers", "T5EncoderModel"]},
            "a StableDiffusion3Pipeline, with text_encoder_3 and transformer",
        ),
        (
            "StableDiffusionControlNetPipeline",
            {"unet": ["diffusers", "UNet2DConditionModel"], "controlnet": ["diffusers", "ControlNetModel"]},
            "a StableDiffusionControlNetPipeline, with controlnet",
        ),
    ],
)
def test_pipelines_with_other_parts(folder: Path, name: str, parts: dict[str, list[str]], message: str) -> None:
    (folder / INDEX).write_text(json.dumps({"_class_name": name, "vae": ["diffusers", "AutoencoderKL"]} | parts))
    if "unet" not in parts:
        shutil.rmtree(folder / "unet")
    with pytest.raises(ExportError, match=message) as refused:
        read_configs(folder)
    assert ("to do without controlnet" if "unet" in parts else "Stable Diffusion 1.x") in str(refused.value.hint)


@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "LatentConsistencyModelPipeline",
        "StableDiffusionPAGPipeline",
        "SomeonesOwnPipeline",
    ],
)
def test_pipelines_whose_parts_fit(folder: Path, name: str) -> None:
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    edit(folder, INDEX, _class_name=name, safety_checker=checker, image_encoder=[None, None], controlnet=[None, None])
    assert read_configs(folder).model_index["_class_name"] == name
