from __future__ import annotations

import resource

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from segrefine.assets import demo_gs_checkpoint
from segrefine.errors import OutputError, SettingsError
from segrefine.reference.checkpoint import load_checkpoint, load_label_checkpoint
from segrefine.train.model import open_model
from segrefine.train.options import TrainOptions
from segrefine.train.surgery import learn_words
from segrefine.train.trainee import Trainee
from tests.examples import examples

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


def test_new_words_are_one_token_each(tmp_path):
    model = opened(demo_gs_checkpoint(), tmp_path)
    assert {"cat", "cats", "glass", "glasses", "wine"} <= set(model.new_words)
    before = CLIPTokenizer.from_pretrained(demo_gs_checkpoint() / "tokenizer")
    after = model.checkpoint.tokenizer
    for text in ("the fox", "all umbrellas", "the red car left of a tree"):
        assert before(text).input_ids == after(text).input_ids
    assert len(after.tokenize("the cat")) == 2
    assert model.checkpoint.text_encoder.get_input_embeddings().num_embeddings == len(model.checkpoint.tokenizer)


@settings(max_examples=examples(10), deadline=None)
@given(st.lists(st.text("abcdehlorstxyz", min_size=1, max_size=9), min_size=1, max_size=12))
def test_any_word_becomes_one_token_and_known_words_stay(tmp_path_factory, words):
    source, target = demo_gs_checkpoint() / "tokenizer", tmp_path_factory.mktemp("words") / "tokenizer"
    before = CLIPTokenizer.from_pretrained(source)
    encoder = CLIPTextModel(CLIPTextConfig(vocab_size=len(before), hidden_size=8, intermediate_size=8,
                                           num_hidden_layers=1, num_attention_heads=1, bos_token_id=716,
                                           eos_token_id=717))  # fmt: skip
    new = learn_words(source, target, words, encoder, seed=0)
    after = CLIPTokenizer.from_pretrained(target)
    assert all(len(after.tokenize(word)) == 1 for word in words)
    assert set(new) == {word for word in words if len(before.tokenize(word)) > 1}
    known = "the butterfly and all umbrellas right of a small cactus"
    assert after(known).input_ids == before(known).input_ids
    assert encoder.get_input_embeddings().num_embeddings == len(after)


@pytest.mark.parametrize("base", ["tiny", "label", "xl"])
def test_what_is_written_is_a_label_checkpoint(base, tiny_checkpoint, tiny_xl_checkpoint, tmp_path):
    found = {"tiny": None, "label": tiny_checkpoint, "xl": tiny_xl_checkpoint}[base]
    model = opened(found, tmp_path, **({} if base == "tiny" else {"fold": 2}))
    torch.manual_seed(0)
    for weight in model.denoiser.conv_out.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    model.write(tmp_path / "out")
    model.write(tmp_path / "out")  # a second one takes its place
    written = [file.read_text("utf-8") for file in (tmp_path / "out").rglob("*.json")]
    assert not [content for content in written if str(tmp_path) in content or "_name_or_path" in content]
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


def test_a_full_disk_leaves_the_old_checkpoint(tiny_checkpoint, tmp_path):
    model = opened(tiny_checkpoint, tmp_path, fold=2)
    model.write(tmp_path / "checkpoint")
    before = load_label_checkpoint(tmp_path / "checkpoint").label_denoiser.conv_in.weight.clone()
    model.denoiser.conv_in.weight.data += 1
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # a larger file is refused, as on a full disk
    try:
        with pytest.raises(OutputError, match="cannot write .*checkpoint"):
            model.write(tmp_path / "checkpoint")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.equal(load_label_checkpoint(tmp_path / "checkpoint").label_denoiser.conv_in.weight, before)
