"""A Stable Diffusion checkpoint, whole but tiny: made once per run, seeded, untrained."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from segrefine.engines.cuda import check_gpu
from segrefine.errors import SegrefineError
from tests.tiny_checkpoint import write_tiny_checkpoint


def _has_gpu() -> bool:
    """Whether PyTorch can use a GPU here; told without importing it."""
    try:
        check_gpu(0)
        return not version("torch").endswith("+cpu")
    except (SegrefineError, PackageNotFoundError):
        return False


if not _has_gpu():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton: GPU kernels are computed on the CPU


@pytest.fixture(scope="session")
def half_demo_bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo bundles in half precision, by name."""
    from segrefine.assets import DEMO_BUNDLES
    from segrefine.export import export_bundle

    folder = tmp_path_factory.mktemp("half")
    return {name: export_bundle(name, folder / name, dtype="fp16").path for name in DEMO_BUNDLES}


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as diffusers saves it, in half precision: 2 levels of attention, 2 pixels per latent pixel."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny-checkpoint"))


@pytest.fixture(scope="session")
def tiny_xl_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in the manner of Stable Diffusion XL."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny-xl-checkpoint"), xl=True)


@pytest.fixture(scope="session", params=["area", "vae"])
def tiny_label_checkpoint(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A label diffusion model as training writes it, around the parts of `tiny_checkpoint`, with either codec."""
    import torch
    from diffusers import DDIMScheduler, UNet2DConditionModel

    from segrefine.reference.checkpoint import load_checkpoint
    from segrefine.reference.label_codec import AreaCodec, VaeCodec, write_codec

    folder = tmp_path_factory.mktemp("tiny-labels") / request.param
    parts = load_checkpoint(tiny_checkpoint)
    area = AreaCodec(fold=2, scale=0.25, vae_scale_factor=2)
    codec = area if request.param == "area" else VaeCodec(vae=parts.vae, scale=0.5)
    shutil.copytree(tiny_checkpoint, folder, ignore=shutil.ignore_patterns("unet"))
    torch.manual_seed(3)
    config = dict(parts.unet.config) | {"in_channels": codec.channels + 4, "out_channels": codec.channels}
    UNet2DConditionModel.from_config(config).half().save_pretrained(folder / "label_denoiser")
    DDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    ).save_pretrained(folder / "scheduler")
    write_codec(codec, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_label_bundle(tiny_label_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `tiny_label_checkpoint`."""
    from segrefine.export import export_bundle

    return export_bundle(tiny_label_checkpoint, tmp_path_factory.mktemp("tiny-label-bundle") / "bundle").path
