from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from PIL import Image

from segrefine.reference.checkpoint import load_label_checkpoint
from segrefine.train.options import TrainOptions
from segrefine.train.run import Job, open_run, train
from segrefine.train.sources import SourceSpec
from segrefine.train.state import STATE, load_state
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
    return Job(data=[SourceSpec(place=data)], output=tmp_path / "out", options=options, model=tiny_checkpoint,
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
            os.kill(os.getpid(), signal.SIGINT)

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
