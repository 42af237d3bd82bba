from __future__ import annotations

import json
import shutil
from typing import Any

import onnxruntime
import pytest
import torch

from segrefine.bundle import Bundle
from segrefine.errors import ExportError, SettingsError
from segrefine.export import export_bundle
from segrefine.reference.checkpoint import load_label_checkpoint
from segrefine.reference.image_encoder import FeatureEncoder
from segrefine.runtime.segmenter import Segmenter
from segrefine.train.model import open_model
from segrefine.train.options import TrainOptions
from segrefine.train.trainee import Trainee
from tests.tiny_checkpoint import new_tiny_encoder, write_tiny_feature_checkpoint, write_tiny_label_checkpoint

SIZES = [(64, 64), (48, 80), (16, 112), (80, 32), (8, 24)]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    write_tiny_label_checkpoint(folder / "labels", tiny_checkpoint, "area")
    write_tiny_feature_checkpoint(folder / "checkpoint", folder / "labels")
    return folder / "checkpoint"


def images(height, width, count=2):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height)) * 2 - 1


@pytest.mark.parametrize("size", SIZES)
def test_one_cell_for_eight_pixels_whatever_the_coarser_scales_are(size):
    with torch.no_grad():
        features = new_tiny_encoder()(images(*size))
    assert features.shape == (2, 8, size[0] // 8, size[1] // 8)
    assert abs(float(features.mean())) < 0.1 and 0.8 < float(features.std()) < 1.2


@pytest.mark.parametrize("size", SIZES)
def test_the_folded_encoder_gives_the_same(size):
    encoder = new_tiny_encoder()
    with torch.no_grad():
        assert torch.allclose(encoder.folded()(images(*size)), encoder(images(*size)), atol=1e-4)


def test_an_image_moved_by_a_cell_moves_its_features():
    encoder, image = new_tiny_encoder(), images(256, 256, 1)
    with torch.no_grad():
        whole, moved = encoder._scales(image), encoder._scales(image[..., 32:])
    for stride, values in whole.items():
        border, cell = 96 // stride, 32 // stride  # what the new border touches is left out
        assert torch.allclose(values[..., border + cell :], moved[stride][..., border:], atol=1e-4)


def test_training_leaves_the_statistics_as_they_were():
    encoder = new_tiny_encoder()
    before = {name: each.clone() for name, each in encoder.named_buffers()}
    encoder.train()(images(64, 64)).square().sum().backward()
    assert all(torch.equal(before[name], each) for name, each in encoder.named_buffers())
    assert encoder.first.conv.weight.grad is not None and encoder.first.norm.weight.grad is not None


def test_engines_give_what_pytorch_gives(checkpoint, tmp_path):
    export_bundle(checkpoint, tmp_path / "bundle")
    bundle, model = Bundle.open(tmp_path / "bundle"), load_label_checkpoint(checkpoint)
    assert isinstance(model.vae, FeatureEncoder) and bundle.manifest.vae_scale_factor == 8
    session = onnxruntime.InferenceSession(bundle.graph("vae_encoder"), providers=["CPUExecutionProvider"])
    for size in SIZES:
        image = images(*size, count=1)
        with torch.no_grad():
            features = model.encode_image(image)
        found = session.run(None, {"sample": image.numpy()})[0]
        assert torch.allclose(torch.from_numpy(found), features, atol=1e-4)
    segmenter = Segmenter.from_bundle(tmp_path / "bundle")
    picture = torch.randint(256, (50, 70, 3), dtype=torch.uint8).numpy()
    assert segmenter(picture, ["the cat"]).segments[0].mask.shape == (50, 70)


def test_trained_whole_with_the_loss_on_classes(checkpoint, tmp_path):
    options = TrainOptions(model="x", train_image=True, class_loss=0.5)
    model = open_model(checkpoint, options, ["cat", "dog"], tmp_path / "words")
    trainee = Trainee(model, options, torch.linspace(0.999, 0, 1000), 2)
    assert {name.split(".")[0] for name in trainee.trained()} == {
        "label_denoiser", "text_encoders", "vae", "class_head"
    }  # fmt: skip
    trainee._encode_image(images(64, 64))
    assert trainee.class_head is not None
    trainee.class_head(torch.randint(-1, 3, (2, 64, 64))).backward()
    encoder: Any = model.parts["vae"]
    assert encoder.first.conv.weight.grad.any()


def test_written_and_read_again(checkpoint, tmp_path):
    model = open_model(checkpoint, TrainOptions(model="x"), [], tmp_path / "words")
    encoder: Any = new_tiny_encoder()
    model.parts["vae"] = encoder
    model.write(tmp_path / "out")
    again = load_label_checkpoint(tmp_path / "out")
    assert again.configs["vae"]["normalised"] is False
    with torch.no_grad():
        assert torch.allclose(again.encode_image(images(64, 64)), encoder(images(64, 64)), atol=0.02)


@pytest.mark.parametrize("change", [{"stages": [[8, 1, 2, 3, 1]]}, {"scale_factor": 4}], ids=str)
def test_a_configuration_that_cannot_be_built_is_told(change, checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "model")
    file = tmp_path / "model/vae/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ExportError):
        assert load_label_checkpoint(tmp_path / "model").vae


def test_masks_are_no_images_of_it(checkpoint, tmp_path):
    with pytest.raises(SettingsError, match="area: this model's image encoder makes features"):
        open_model(checkpoint, TrainOptions(model="x", codec="vae"), [], tmp_path / "words")
    codec = checkpoint / "label_codec/config.json"
    before = codec.read_text()
    codec.write_text('{"kind": "vae", "scale": 1.0}')
    try:
        with pytest.raises(ExportError, match="kind vae for an image codec"):
            load_label_checkpoint(checkpoint)
    finally:
        codec.write_text(before)
