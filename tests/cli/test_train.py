from __future__ import annotations

import json

import pytest

from segrefine.reference.checkpoint import load_label_checkpoint
from tests.train.data import write_label_maps

FEW = ("--steps", 1, "--batch", 2, "--held-out", 0.3, "--cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_label_maps(tmp_path_factory.mktemp("train") / "data", count=4)


def test_train_ends_with_the_commands_that_export_and_try(run, data, tiny_checkpoint, tmp_path):
    done = run("train", data, tmp_path / "out", "--from", tiny_checkpoint, "--fold", 2, *FEW)
    assert done.exit_code == 0, done.output
    assert f"segrefine export {tmp_path}/out/checkpoint {tmp_path}/out/bundle" in done.stdout
    assert f'segrefine segment photo.png "the cat" --bundle {tmp_path}/out/bundle' in done.stdout
    assert load_label_checkpoint(tmp_path / "out/checkpoint").codec.channels == 4


def test_json(run, data, tiny_label_checkpoint, tmp_path):
    done = run("train", data, tmp_path / "out", "--from", tiny_label_checkpoint, "--json", *FEW)
    values = json.loads(done.stdout)
    assert values["steps"] == 1 and values["checkpoint"] == str(tmp_path / "out/checkpoint")


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        (("nothing", "out", "--from", "tiny"), "there is no data set nothing", 1),
        (("DATA", "out", "--from", "nonsense"), "there is no model 'nonsense'", 1),
        (("DATA", "out"), "Missing option '--from'", 2),
        (("DATA", "out", "--from", "tiny", "--batch", "3"), "batch: expected a multiple", 1),
        (("DATA", "out", "--from", "tiny", "--resume"), "out: there is no training run to resume", 1),
        (("DATA", "DATA", "--from", "tiny"), "is not empty", 1),
    ],
)
def test_what_is_refused(words, message, status, run, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("train", *(str(data) if word == "DATA" else word for word in words), "--cpu")
    assert done.exit_code == status and message in done.stderr
    assert done.stderr.count("error:") == 1 and "hint:" in done.stderr
    assert not (tmp_path / "out/checkpoint").exists()
