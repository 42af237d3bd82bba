"""What a single file says of its own prediction, against what its configuration says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

from segrefine.errors import ExportError
from segrefine.reference.configs import read_configs
from segrefine.reference.weight_files import SingleFile
from segrefine.runtime.schedule import NoiseSchedule
from tests.single_file import write_single_file

NOTHING = torch.tensor([])
SCHEDULE = "scheduler/scheduler_config.json"


@pytest.fixture(scope="module")
def weights(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return load_file(write_single_file(tiny_checkpoint, tmp_path_factory.mktemp("prediction") / "plain.safetensors"))


@pytest.fixture
def config(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "config", ignore=shutil.ignore_patterns("*.safetensors"))


def schedule_of(folder: Path, **values: Any) -> None:
    content = json.loads((folder / SCHEDULE).read_text()) | values
    (folder / SCHEDULE).write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


def read(
    config: Path, weights: dict[str, Tensor], metadata: dict[str, str] | None = None, guessed: bool = False
) -> dict[str, Any]:
    file = config.parent / "model.safetensors"
    save_file(weights, file, metadata)
    return read_configs(SingleFile(file, config, guessed)).scheduler_config


V_WORDS: list[tuple[dict[str, Tensor], dict[str, str]]] = [
    ({"v_pred": NOTHING}, {}),
    *(({}, {"modelspec.prediction_type": word}) for word in ("v", "v_prediction", "V_PRED")),
    ({}, {"modelspec.predict_key": "v"}),
    ({}, {"ss_v_parameterization": "true"}),
    ({}, {"modelspec.architecture": "stable-diffusion-v2-768-v"}),
    ({"v_pred": NOTHING}, {"modelspec.predict_key": "v", "modelspec.architecture": "stable-diffusion-v2-768-v"}),
]


@pytest.mark.parametrize("guessed", [False, True])
@pytest.mark.parametrize("kind", ["DDIMScheduler", "EulerDiscreteScheduler", "PNDMScheduler"])
@pytest.mark.parametrize(("tensors", "metadata"), V_WORDS)
def test_v_in_the_file_counts(
    config: Path,
    weights: dict[str, Tensor],
    tensors: dict[str, Tensor],
    metadata: dict[str, str],
    kind: str,
    guessed: bool,
) -> None:
    schedule_of(config, prediction_type="epsilon", _class_name=kind)
    assert read(config, weights, guessed=guessed)["prediction_type"] == "epsilon"
    assert read(config, weights | tensors, metadata, guessed)["prediction_type"] == "v_prediction"


@pytest.mark.parametrize("kind", ["DDIMScheduler", "EulerDiscreteScheduler", "PNDMScheduler", "LMSDiscreteScheduler"])
@pytest.mark.parametrize(
    ("tensors", "metadata"), [({"ztsnr": NOTHING}, {}), ({}, {"ss_zero_terminal_snr": "True"})], ids=["tensor", "text"]
)
def test_zero_snr_in_the_file_counts(
    config: Path, weights: dict[str, Tensor], tensors: dict[str, Tensor], metadata: dict[str, str], kind: str
) -> None:
    """Its levels are those of diffusers under this setting, also where the configuration's class has none such."""
    schedule_of(config, prediction_type="epsilon", _class_name=kind)
    found = read(config, weights | {"v_pred": NOTHING} | tensors, metadata)
    plain = {
        **json.loads((config / SCHEDULE).read_text()),
        "rescale_betas_zero_snr": True,
        "_class_name": "DDIMScheduler",
    }
    expected = DDIMScheduler.from_config(plain).alphas_cumprod.numpy()
    np.testing.assert_allclose(NoiseSchedule.from_config(found).alphas_cumprod, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(DDIMScheduler.from_config(found).alphas_cumprod.numpy(), expected, rtol=0, atol=1e-6)


def test_an_epsilon_against_a_chosen_configuration_is_refused(config: Path, weights: dict[str, Tensor]) -> None:
    schedule_of(config, prediction_type="v_prediction")
    metadata = {"modelspec.prediction_type": "epsilon"}
    with pytest.raises(ExportError, match=r"prediction_type epsilon \(modelspec.* says v_prediction") as refused:
        read(config, weights, metadata)
    assert "metadata" in str(refused.value.hint)
    assert read(config, weights, metadata, guessed=True)["prediction_type"] == "epsilon"
    schedule_of(config, rescale_betas_zero_snr=True)
    with pytest.raises(ExportError, match="rescale_betas_zero_snr False .*ss_zero_terminal_snr.* says True"):
        read(config, weights, {"ss_zero_terminal_snr": "False"})


def test_silence_of_a_file_whose_configuration_was_guessed(config: Path, weights: dict[str, Tensor]) -> None:
    schedule_of(config, prediction_type="v_prediction")
    with pytest.raises(ExportError, match="does not say what it predicts") as refused:
        read(config, weights, {"modelspec.architecture": "stable-diffusion-v1"}, guessed=True)
    assert "stable-diffusion-2-1-base" in str(refused.value.hint)
    assert read(config, weights)["prediction_type"] == "v_prediction"


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        (
            {"v_pred": NOTHING},
            {"modelspec.predict_key": "epsilon"},
            "two things of what it predicts: .*epsilon .*v_pred",
        ),
        ({}, {"modelspec.prediction_type": "v", "ss_v_parameterization": "False"}, "two things"),
        (
            {},
            {"modelspec.prediction_type": "rectified_flow"},
            "expected a model that predicts epsilon, v or sample; got 'rectified_flow'",
        ),
        ({"edm_mean": NOTHING}, {}, "edm_mean: its noise levels are not a DDPM's"),
        ({"edm_vpred.sigma_max": torch.tensor(80.0)}, {}, "edm_vpred.sigma_max: its noise levels"),
        ({"ztsnr": NOTHING}, {"modelspec.prediction_type": "epsilon"}, "ends without any signal"),
        ({"ztsnr": NOTHING}, {"ss_zero_terminal_snr": "False"}, "two things of what it has"),
    ],
)
def test_what_cannot_be_settled_is_refused(
    config: Path, weights: dict[str, Tensor], tensors: dict[str, Tensor], metadata: dict[str, str], message: str
) -> None:
    schedule_of(config, prediction_type="epsilon")
    with pytest.raises(ExportError, match=message) as refused:
        read(config, weights | tensors, metadata)
    assert refused.value.hint


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_noise_levels_in_the_file(config: Path, weights: dict[str, Tensor], dtype: torch.dtype) -> None:
    levels = DDIMScheduler.from_config(json.loads((config / SCHEDULE).read_text())).alphas_cumprod.double()
    assert read(config, weights | {"alphas_cumprod": levels.to(dtype)})
    for others in (levels**2, levels[:-1], torch.linspace(1, 0, 1000)):
        with pytest.raises(ExportError, match="holds noise levels of its own .*scheduler_config.json are others"):
            read(config, weights | {"alphas_cumprod": others.to(dtype)})


@pytest.mark.parametrize("text", ["", "None", "unknown"])
def test_metadata_without_a_word(config: Path, weights: dict[str, Tensor], text: str) -> None:
    metadata = {"modelspec.prediction_type": text, "ss_v_parameterization": text, "ss_zero_terminal_snr": text}
    assert read(config, weights, metadata) == read(config, weights)
