from __future__ import annotations

import pytest
import torch

from segrefine.errors import SettingsError
from segrefine.reference.checkpoint import load_checkpoint, load_label_checkpoint
from segrefine.train.model import open_model
from segrefine.train.options import TrainOptions
from segrefine.train.trainee import Trainee

CLASSES = ["cat", "wine glass"]


def opened(folder, tmp_path, **options):
    return open_model(folder, TrainOptions(model="x", **options), CLASSES, tmp_path / "words")


def answer(denoiser, channels, seed=0):
    sample = torch.randn(1, channels, 8, 8, generator=torch.Generator().manual_seed(seed))
    states = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return denoiser(sample, torch.tensor([500]), states).sample


def test_widened_inputs_keep_old_weights_and_new_ones_are_zero(tiny_checkpoint, tmp_path):
    old = load_checkpoint(tiny_checkpoint).unet
    model = opened(tiny_checkpoint, tmp_path, fold=2)
    new = model.denoiser.conv_in.weight
    assert model.checkpoint.codec.channels == 4 and new.shape[1] == 8
    assert torch.equal(new[:, 4:], old.conv_in.weight) and not new[:, :4].any()
    assert not model.denoiser.conv_out.weight.any()


def test_the_vae_codec_starts_as_the_denoiser_of_latents(tiny_checkpoint, tmp_path):
    old = load_checkpoint(tiny_checkpoint).unet
    model = opened(tiny_checkpoint, tmp_path, codec="vae")
    sample = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    states = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = old(sample, torch.tensor([500]), states).sample
        image = torch.randn(1, 4, 8, 8)
        after = model.denoiser(torch.cat([sample, image], 1), torch.tensor([500]), states).sample
    assert torch.allclose(before, after, atol=1e-6)


def test_a_label_model_stays_as_it_is_where_nothing_is_asked(tiny_label_checkpoint, tmp_path):
    old = load_label_checkpoint(tiny_label_checkpoint)
    model = opened(tiny_label_checkpoint, tmp_path)
    assert torch.equal(answer(old.label_denoiser, 8), answer(model.denoiser, 8))
    assert model.checkpoint.prediction_type == old.prediction_type


def test_another_fold_keeps_what_reads_the_image(tiny_checkpoint, tiny_label_checkpoint, tmp_path):
    old = load_label_checkpoint(tiny_label_checkpoint).label_denoiser
    model = opened(tiny_label_checkpoint, tmp_path, codec="area", fold=1)
    assert model.denoiser.config.out_channels == 1
    assert torch.equal(model.denoiser.conv_in.weight[:, 1:], old.conv_in.weight[:, 4:])


def test_a_fold_that_does_not_divide_is_refused(tiny_checkpoint, tmp_path):
    with pytest.raises(SettingsError, match="divides the model's 2 pixels, got 8"):
        opened(tiny_checkpoint, tmp_path, fold=8)


def test_a_side_off_the_grid_is_refused(tiny_checkpoint, tmp_path):
    with pytest.raises(SettingsError, match="multiple of 4") as caught:
        opened(tiny_checkpoint, tmp_path, fold=2, side=30)
    assert "--side 32" in caught.value.hint or "--side 28" in caught.value.hint


@pytest.mark.parametrize("base", ["tiny", "label", "xl"])
def test_what_is_written_is_a_label_checkpoint(base, tiny_checkpoint, tiny_xl_checkpoint, tmp_path):
    found = {"tiny": None, "label": tiny_checkpoint, "xl": tiny_xl_checkpoint}[base]
    model = opened(found, tmp_path, **({} if base == "tiny" else {"fold": 2}))
    torch.manual_seed(0)
    for weight in model.denoiser.conv_out.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    model.write(tmp_path / "out")
    model.write(tmp_path / "out")  # a second one takes its place
    again = load_label_checkpoint(tmp_path / "out")
    image = torch.rand(1, 3, model.side, model.side, generator=torch.Generator().manual_seed(2)) * 2 - 1
    text, same = (each.encode_text(["the cat"], image.shape[2:]) for each in (model.checkpoint, again))
    states = "encoder_hidden_states"
    assert torch.allclose(text[states], same[states], atol=0.05)
    with torch.no_grad():
        latents, too = model.checkpoint.encode_image(image), again.encode_image(image)
    assert torch.allclose(latents, too, atol=0.05)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "words"]


def trainee_of(model, **options):
    return Trainee(model, TrainOptions(model="x", **options), torch.linspace(0.999, 0, 1000))


def test_adapters_are_merged_into_what_is_written(tiny_checkpoint, tmp_path):
    model = opened(tiny_checkpoint, tmp_path, fold=2, new_words=False)
    trainee = trainee_of(model, lora=4)
    trained = trainee.trained()
    assert all("lora" in name or "conv_in" in name or "conv_out" in name for name in trained)
    assert {name.split(".")[0] for name in trained} == {"label_denoiser", "text_encoders"}
    torch.manual_seed(5)
    for weight in trained.values():
        torch.nn.init.normal_(weight, std=0.2)
    adapted = answer(model.denoiser.eval(), 8)
    model.write(tmp_path / "out")
    assert torch.equal(answer(model.denoiser, 8), adapted)  # writing leaves the run's network as it is
    written = load_label_checkpoint(tmp_path / "out")
    assert torch.allclose(answer(written.label_denoiser, 8), adapted, atol=0.02 * float(adapted.abs().max()))


def test_adapters_for_no_layer_are_refused(tiny_checkpoint, tmp_path):
    with pytest.raises(SettingsError, match="no layer of the model is named nonsense"):
        trainee_of(opened(tiny_checkpoint, tmp_path, fold=2), lora=4, lora_targets=("nonsense",))


@pytest.mark.parametrize(
    ("options", "parts"),
    [({"train_text": False}, {"label_denoiser"}), ({}, {"label_denoiser", "text_encoders"}),
     ({"train_image": True}, {"label_denoiser", "text_encoders", "vae"})],
)  # fmt: skip
def test_what_is_trained(options, parts, tiny_checkpoint, tmp_path):
    trained = trainee_of(opened(tiny_checkpoint, tmp_path, fold=2), **options).trained()
    assert {name.split(".")[0] for name in trained} == parts
    assert not any("decoder" in name for name in trained)
