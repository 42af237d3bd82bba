from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from diffusers import AutoencoderTiny

from segrefine.bundle import Bundle
from segrefine.errors import ExportError, SettingsError
from segrefine.export import export_bundle
from segrefine.export.comparison import ParityScene
from segrefine.export.other_vae import with_vae
from segrefine.export.parity import check_parity
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.reference.weight_files import SingleFile
from segrefine.train.model import open_model
from segrefine.train.options import TrainOptions
from segrefine.train.trainee import Trainee
from tests.tiny_checkpoint import write_small_vae


@pytest.fixture(scope="module")
def small_vae(tmp_path_factory):
    return write_small_vae(tmp_path_factory.mktemp("codec") / "taesd")


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint, small_vae, tmp_path_factory):
    return export_bundle(tiny_checkpoint, tmp_path_factory.mktemp("bundle") / "bundle", vae=small_vae)


def test_the_bundle_has_the_small_codec(bundle, small_vae):
    codec: Any = AutoencoderTiny.from_pretrained(small_vae).float().eval()
    image = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = codec.encode(image).latents
        shown = codec.decode(latents).sample
    for name, fed, expected in (("vae_encoder", image, latents), ("vae_decoder", latents, shown)):
        session = onnxruntime.InferenceSession(bundle.graph(name), providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: fed.numpy()})[0]
        assert np.allclose(found, expected, atol=1e-4)
    assert bundle.manifest.scaling_factor == 1.0


def test_every_step_of_the_loop_agrees(bundle, tiny_checkpoint, small_vae):
    rng = np.random.default_rng(0)
    scene = ParityScene(
        image=rng.integers(256, size=(16, 16, 3)).astype(np.uint8), coarse=rng.random((16, 16), np.float32), label="cat"
    )
    with with_vae(tiny_checkpoint, small_vae) as model:
        rows = list(check_parity(bundle.path, model, [scene]))
    assert rows and all(row.ok for row in rows)
    assert not all(row.ok for row in check_parity(bundle.path, tiny_checkpoint, [scene]))  # its own codec is another


def test_a_whole_model_gives_its_codec(tiny_checkpoint, bundle, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path / "other")
    shutil.rmtree(tmp_path / "other/vae")
    write_small_vae(tmp_path / "other/vae")
    with with_vae(tiny_checkpoint, tmp_path / "other") as model:
        assert isinstance(load_checkpoint(model).vae, AutoencoderTiny)
    assert isinstance(load_checkpoint(tmp_path / "other").vae, AutoencoderTiny)  # as the model's own it serves too
    assert Bundle.open(bundle.path).manifest.method == "g4seg"


COARSER = {f"{side}_block_out_channels": (8,) * 3 for side in ("encoder", "decoder")}
COARSER |= {f"num_{side}_blocks": (1,) * 3 for side in ("encoder", "decoder")}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"latent_channels": 16}, "latents of 4 channels with 2 pixels each.* got 16 channels with 2 pixels each"),
        (COARSER, "2 pixels each.* got 4 channels with 4 pixels each"),
    ],
)
def test_a_codec_of_another_family_is_refused(config, message, tiny_checkpoint, tmp_path):
    write_small_vae(tmp_path / "codec", **config)
    with pytest.raises(ExportError, match=message), with_vae(tiny_checkpoint, tmp_path / "codec"):
        pass


def test_what_is_no_codec(tiny_checkpoint, small_vae, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    shutil.copytree(small_vae, tmp_path / "weightless")
    (tmp_path / "weightless/diffusion_pytorch_model.safetensors").unlink()
    shutil.copytree(small_vae, tmp_path / "strange")
    config = json.loads((tmp_path / "strange/config.json").read_text())
    (tmp_path / "strange/config.json").write_text(json.dumps(config | {"_class_name": "VQModel"}))
    for name, message in (("file", "the folder of an image codec"), ("empty", "config.json"), ("gone", "image codec"),
                          ("weightless", "safetensors"), ("strange", "got VQModel"), ("", "got nothing")):  # fmt: skip
        with pytest.raises(ExportError, match=message), with_vae(tiny_checkpoint, str(tmp_path / name) if name else ""):
            pass
    single = SingleFile(tmp_path / "file", tiny_checkpoint)
    with pytest.raises(ExportError, match="a diffusers folder or a hub id as MODEL"), with_vae(single, small_vae):
        pass


def test_training_on_a_small_codec(tiny_checkpoint, small_vae, tmp_path):
    with with_vae(tiny_checkpoint, small_vae) as folder:
        model = open_model(folder, TrainOptions(model="x", fold=2), ["cat"], tmp_path / "words")
        model.write(tmp_path / "out")
        options = TrainOptions(model="x", train_image=True)
        trained = Trainee(model, options, torch.linspace(0.999, 0, 1000)).trained()
    assert any(name.startswith("vae.encoder") for name in trained)
    assert not any("decoder" in name for name in trained)
    with pytest.raises(SettingsError, match="a middle block, got AutoencoderTiny"):
        Trainee(model, TrainOptions(model="x", train_image=True, class_loss=1.0), torch.linspace(0.999, 0, 1000), 1)
