from __future__ import annotations

import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from segrefine.errors import MaskError, NumericalError, OutputError, PromptError, SettingsError
from segrefine.reference.checkpoint import load_label_checkpoint
from segrefine.train.memory import check_memory, estimate
from segrefine.train.options import TrainOptions
from segrefine.train.run import TrainingJob, open_run, train
from segrefine.train.sources import SourceSpec
from segrefine.train.state import STATE, load_state, save_state
from tests.train.data import CLASSES, write_label_maps

CPU = torch.device("cpu")


def quiet(*_):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_label_maps(tmp_path_factory.mktemp("train") / "data", count=8)


@pytest.fixture
def job(data, tiny_checkpoint, tmp_path):
    options = TrainOptions(model="tiny-sd", steps=4, batch=4, fold=2, learning_rate=1e-3, validation_limit=2)
    return TrainingJob(data=[SourceSpec(place=data)], output=tmp_path / "out", options=options, model=tiny_checkpoint,
               held_share=0.25, cpu=True)  # fmt: skip


def changed(job, output=None, **options):
    return replace(job, output=output or job.output, options=replace(job.options, **options))


def weights_of(job):
    return load_state(job.output / "training" / STATE, CPU)


def assert_same(one, other):
    for group in ("weights", "average"):
        assert one[group].keys() == other[group].keys()
        for name, tensor in one[group].items():
            assert torch.equal(tensor, other[group][name]), (group, name)
    for one_state, other_state in zip(one["optimizer"]["state"].values(), other["optimizer"]["state"].values(),
                                      strict=True):  # fmt: skip
        assert all(torch.equal(one_state[name], other_state[name]) for name in one_state)


def test_a_run_from_start_to_end(job):
    lines = []
    done = train(job, lambda line, share: lines.append(line), quiet)
    assert done["steps"] == 4 and done["resumed_at"] == 0 and done["classes"] == sorted(CLASSES)
    assert done["validation"]["images"] == 2 and set(done["validation"]["iou_of_classes"]) <= set(CLASSES)
    model = load_label_checkpoint(job.output / "checkpoint")
    assert model.codec.channels == 4 and model.prediction_type == "sample"
    logged = [json.loads(line) for line in (job.output / "training/log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in logged] == ["train", "validation"] and logged[0]["step"] == 4
    assert Image.open(job.output / "training/sheet.png").size[0] > 100
    assert any(line.startswith("memory: about") for line in lines)
    assert any("step 4 of 4" in line and "left" in line for line in lines)


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(job, tmp_path):
    train(job, quiet, quiet)
    undisturbed = weights_of(job)
    other = changed(job, output=tmp_path / "other")

    def interrupt(line, share):
        if line.startswith("step 2 "):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(other, interrupt, quiet)
    assert weights_of(other)["step"] == 2
    done = train(replace(other, resume=True), quiet, quiet)
    assert done["resumed_at"] == 2
    assert_same(undisturbed, weights_of(other))


def test_steps_after_the_last_saved_state_are_done_again(job, tmp_path):
    train(job, quiet, quiet)
    other = changed(job, output=tmp_path / "other", save_minutes=1e-9)

    def die(line, share):
        if line.startswith("step 3 "):  # step 2 was saved, step 3 was not
            raise SystemExit

    with pytest.raises(SystemExit):
        train(other, die, quiet)
    assert weights_of(other)["step"] == 2
    train(replace(other, resume=True), quiet, quiet)
    assert_same(weights_of(job), weights_of(other))


def test_a_batch_in_parts_gives_the_same_step(job, tmp_path):
    whole = changed(job, steps=1)
    parts = changed(job, output=tmp_path / "parts", steps=1, accumulate=2)
    for each in (whole, parts):
        train(each, quiet, quiet)
    one, other = weights_of(whole)["optimizer"]["state"], weights_of(parts)["optimizer"]["state"]
    for key in one:  # the first moments are the gradients, up to a factor
        scale = one[key]["exp_avg"].abs().max()
        assert torch.allclose(one[key]["exp_avg"], other[key]["exp_avg"], atol=1e-4 * float(scale) + 1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {"recipe": "diffusion", "prediction": "v_prediction"},
        {"recipe": "both", "prediction": "epsilon", "own_share": 0.9},
        {"codec": "vae", "fold": None, "augmentation": "light"},
        {"train_image": True, "class_loss": 0.5, "augmentation": "none", "phrases": 4},
        {"checkpointing": True, "precision": "bf16"},
        {"lora": 2},
    ],
    ids=str,
)
def test_every_recipe_moves_every_weight_that_it_trains(options, job):
    engine = open_run(changed(job, steps=2, **options), quiet, quiet)
    before = {name: weight.detach().clone() for name, weight in engine.trainee.trained().items()}
    engine.run()
    after = engine.trainee.trained()
    still = [name for name, weight in before.items() if torch.equal(weight, after[name]) and "final_layer" not in name]
    # keys that are never queried with another result: position embeddings behind the longest phrase stay
    assert not [name for name in still if "embedding" not in name and "lora_A" not in name], still


def test_training_lowers_the_loss(job, monkeypatch):
    steps = changed(job, steps=30, batch=4, learning_rate=5e-3, own_share=0, augmentation="none", drop_image=0)
    engine = open_run(steps, quiet, quiet)
    losses: list[float] = []
    monkeypatch.setattr(engine._journal, "step", lambda step, values, rate: losses.append(values["loss"]))
    engine.run()
    assert np.median(losses[-10:]) < 0.75 * losses[0]  # the first loss is that of an empty answer


def test_a_folder_that_holds_another_run(job, tmp_path):
    train(changed(job, steps=1), quiet, quiet)
    with pytest.raises(OutputError, match="holds a training run") as caught:
        train(job, quiet, quiet)
    assert "--resume" in caught.value.hint
    with pytest.raises(OutputError, match="batch was 4 and is 8 now"):
        train(replace(changed(job, batch=8), resume=True), quiet, quiet)
    train(replace(changed(job, steps=2), resume=True), quiet, quiet)  # more steps may be asked for
    assert weights_of(job)["step"] == 2
    with pytest.raises(OutputError, match="no training run to resume"):
        train(replace(changed(job, output=tmp_path / "nothing"), resume=True), quiet, quiet)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(OutputError, match="is not empty"):
        train(changed(job, output=tmp_path / "full"), quiet, quiet)


def test_data_of_one_class_is_told(job, tmp_path):
    folder = write_label_maps(tmp_path / "data", count=3)
    for file in (folder / "masks").iterdir():
        labels = np.array(Image.open(file))
        Image.fromarray((labels > 0).astype(np.uint8)).save(file)
    warnings: list[str] = []
    open_run(replace(job, data=[SourceSpec(place=folder)]), quiet, warnings.append)
    assert any("one class, 'cat'" in line for line in warnings)


def test_broken_images_are_told_and_left_out(job, tmp_path):
    folder = write_label_maps(tmp_path / "data", count=4)
    (folder / "masks/2.png").unlink()
    warnings: list[str] = []
    open_run(replace(job, data=[SourceSpec(place=folder)]), quiet, warnings.append)
    assert any("1 images cannot be used and are left out; 2: there is no mask" in line for line in warnings)


def test_a_class_name_with_too_many_tokens(job, tmp_path):
    folder = write_label_maps(tmp_path / "data", count=4)
    (folder / "classes.json").write_text(json.dumps(["background", "an utterly endless name", "dog", "glass"]))
    with pytest.raises(PromptError, match="an utterly endless name.*at most 16 tokens"):
        open_run(replace(changed(job, new_words=False), data=[SourceSpec(place=folder)]), quiet, quiet)


LONG = " ".join(["the small red box left of the big one"] * 4)


def write_phrases(folder, phrases):
    """Images with one mask each, named by phrases; returns the folder."""
    write_label_maps(folder, count=len(phrases))
    (folder / "classes.json").unlink()
    named = {f"{number}.png": dict.fromkeys(texts, f"{number}.png") for number, texts in enumerate(phrases)}
    (folder / "phrases.json").write_text(json.dumps(named))
    for file in (folder / "masks").iterdir():
        Image.fromarray((np.array(Image.open(file)) > 0).astype(np.uint8) * 255).save(file)
    return folder


def test_long_phrases_are_counted_and_never_asked(job, tmp_path):
    folder = write_phrases(tmp_path / "data", [["the box", LONG], [LONG + " here"], ["a thing"], ["everything"]])
    warnings: list[str] = []
    engine = open_run(replace(job, data=[SourceSpec(place=folder)], held_share=0), quiet, warnings.append)
    assert any(
        line.startswith("2 of 5 phrases have more than 16 tokens and are left out: 'the small") for line in warnings
    )
    asked = {text for step in range(20) for part in [engine.batches] for text in phrases_of(part, step)}
    assert asked == {"the box", "a thing", "everything"}


def phrases_of(batches, step):
    """The texts of a batch, read back from its tokens."""
    ids = batches.make(step, 0, 1).ids["tokenizer"]
    tokenizer = batches.model.checkpoint.tokenizer
    texts = {tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids}
    return texts - {""}


def test_long_phrases_alone(job, tmp_path):
    folder = write_phrases(tmp_path / "data", [[LONG], [LONG + " here"]])
    with pytest.raises(PromptError, match="every phrase has more than 16 tokens"):
        open_run(replace(job, data=[SourceSpec(place=folder)], held_share=0), quiet, quiet)


def test_held_out_images_are_not_asked_for_long_phrases_either(job, tmp_path):
    folder = write_phrases(tmp_path / "data", [[LONG, "the box"], [LONG, "a thing"]])
    engine = open_run(replace(job, validation=SourceSpec(place=folder)), quiet, quiet)
    texts = {text for scene in engine.held_out for region in scene.regions for text in region.phrases}
    assert texts == {"the box", "a thing"}


def test_no_data_is_left_to_train_on(job, tmp_path):
    with pytest.raises(MaskError, match="there is no data set"):
        train(replace(job, data=[SourceSpec(place=tmp_path / "nothing")]), quiet, quiet)


def test_a_loss_that_is_no_number_ends_the_run(job):
    with pytest.raises(NumericalError, match="the loss is") as caught:
        train(changed(job, steps=20, learning_rate=1e18, warm_up=0.0), quiet, quiet)
    assert "--learning-rate" in caught.value.hint


def test_memory_is_estimated_and_refused(job):
    engines = {name: open_run(changed(job, output=job.output / name, **options), quiet, quiet)
               for name, options in (("small", {}), ("large", {"batch": 16}), ("lora", {"lora": 2}))}  # fmt: skip
    found = {name: estimate(each.trainee, each.batches.make(0, 0, 1), each.options) for name, each in engines.items()}
    assert 3 * found["small"].activations < found["large"].activations < 5 * found["small"].activations
    assert found["lora"].training < found["small"].training
    with pytest.raises(SettingsError, match="training needs about") as caught:
        check_memory(found["small"], 2**20, job.options)
    assert "--checkpointing" in caught.value.hint and "--lora 16" in caught.value.hint
    check_memory(found["small"], 2**40, job.options)


def test_checkpointing_keeps_less(job):
    found = [estimate(each.trainee, each.batches.make(0, 0, 1), each.options).activations
             for each in (open_run(changed(job, output=job.output / str(on), checkpointing=on), quiet, quiet)
                          for on in (False, True))]  # fmt: skip
    assert found[1] < 0.7 * found[0]


def test_a_full_disk_leaves_the_old_state(tmp_path):
    save_state(tmp_path / STATE, {"step": 1})
    (tmp_path / "state.partial").symlink_to("/dev/full")
    with pytest.raises(OutputError):
        save_state(tmp_path / STATE, {"step": 2, "weights": torch.zeros(100_000)})
    assert load_state(tmp_path / STATE, CPU) == {"step": 1}


def test_a_damaged_state_is_told(tmp_path):
    (tmp_path / STATE).write_bytes(b"damaged")
    with pytest.raises(OutputError, match="is damaged"):
        load_state(tmp_path / STATE, CPU)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 5}, "multiple of the 2 phrases"), ({"steps": 0}, "steps: expected a number above 0"),
        ({"recipe": "magic"}, "recipe: expected one of end-to-end, diffusion, both; got 'magic'"),
        ({"fold": 3}, "fold: expected 1, 2, 4 or 8"), ({"codec": "vae", "fold": 2}, "fold: expected"),
        ({"drop_phrase": 1.0}, "drop_phrase: expected a share"), ({"seed": -1}, "seed"),
        ({"train_image": True, "codec": "vae"}, "VAE codec"), ({"train_image": True, "lora": 4}, "adapters"),
        ({"paste": 0.7, "mosaic": 0.6}, "sum to at most 1"), ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate: expected"), ({"side": 0}, "side: expected a number above 0"),
        ({"train_image": True, "class_loss": float("nan")}, "class_loss: expected"),
    ],
)  # fmt: skip
def test_options_that_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        TrainOptions(model="tiny", **options)
