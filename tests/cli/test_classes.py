"""Closed vocabulary: `segment --classes`, `batch --zero-shot --classes` and the service give one label map."""

import json

import numpy as np
import pytest
from PIL import Image

from segrefine.assets import demo_samples

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
