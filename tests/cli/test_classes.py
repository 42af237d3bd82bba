"""Closed vocabulary: `segment --classes`, `batch --zero-shot --classes` and the service give one label map."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.serve.process import running
from segrefine.assets import demo_samples
from segrefine.client import Client

NAMES = ("banana", "fox", "car", "cactus", "boat", "butterfly")
IMAGE = demo_samples() / "images" / "02-car-erode.png"


@pytest.fixture
def data(tmp_path):
    """A folder with one image, and a class list."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / IMAGE.name).write_bytes(IMAGE.read_bytes())
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps(dict(enumerate(NAMES, 2))))
    return tmp_path / "data", classes


def test_segment_and_batch_give_the_same_label_map(run, data, tmp_path):
    folder, classes = data
    common = "--classes", classes, "--bundle", "demo", "--threads", 1
    done = run("segment", IMAGE, *common, "-o", tmp_path / "one.png", "--json")
    assert done.exit_code == 0, done.stderr
    assert len(json.loads(done.stdout)["segments"]) > 1  # masks that compete
    done = run("batch", folder, tmp_path / "out", "--zero-shot", "--workers", 1, *common)
    assert done.exit_code == 0, done.stderr
    one, other = (np.asarray(Image.open(file)) for file in (tmp_path / "one.png", tmp_path / "out/masks" / IMAGE.name))
    np.testing.assert_array_equal(one, other)


def test_the_service_gives_the_same_label_map(run, data, tmp_path):
    classes = data[1]
    done = run("segment", IMAGE, "--classes", classes, "--bundle", "demo", "--threads", 1, "-o", tmp_path / "one.png")
    assert done.exit_code == 0, done.stderr
    wanted = np.asarray(Image.open(tmp_path / "one.png"))
    names = {str(index): name for index, name in enumerate(NAMES, 2)}
    with running(tmp_path, "demo", "--threads", "1") as service, Client(service.url) as client, service.http() as http:
        answer = client.segment(IMAGE, [], classes=names)
        indices = set(np.unique(wanted).tolist()) - {0}
        assert {each["label"] for each in answer.values["segments"]} >= indices and answer.warnings == ()
        assert all(part.mask.any() for part in answer.segments)
        content = base64.b64decode(answer.values["label_map"]["data"])
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), wanted)
        files = {"image": IMAGE.read_bytes()}
        form, headers = {"classes": json.dumps(names)}, {"Accept": "image/png"}
        picture = http.post("/v1/segment", data=form, files=files, headers=headers)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(picture.content))), wanted)
        absent = http.post("/v1/segment", files=files, data={"classes": '{"7": "rocket"}'}).json()
        assert absent["segments"] == []
        assert absent["warnings"] == ["none of the 1 classes was found in the image"]
        for wrong, told in (
            ({"classes": "voc", "phrases": "fox"}, "phrases and classes"),
            ({}, "none of them"),
            ({"classes": "vok"}, "context59"),
            ({"classes": "/etc/hostname"}, "context59"),
            ({"classes": '["fox"]'}, "class at index 0"),
            ({"classes": '{"70000": "fox"}'}, "at most 65535"),
            ({"classes": "[null]"}, "names no class"),
        ):
            refused = http.post("/v1/segment", files=files, data=wrong)
            assert refused.status_code == 422 and told in refused.json()["detail"], refused.text


def test_numbers_that_the_file_cannot_hold_are_told_before_the_work(run, tmp_path, monkeypatch):
    monkeypatch.setattr("segrefine.cli.segment.read_picture", None)  # nothing is read
    classes = tmp_path / "classes.json"
    classes.write_text('{"300": "car"}')
    done = run("segment", IMAGE, "--classes", classes, "--zero-shot", "-o", tmp_path / "z.bmp")
    assert done.exit_code == 2 and "up to 300" in done.stderr and ".png" in done.stderr
    phrases = [f"car {number}" for number in range(256)]
    done = run("segment", IMAGE, *phrases, "-o", tmp_path / "z.bmp")
    assert done.exit_code == 2 and "up to 256" in done.stderr
