"""The examples of the page on other libraries run as they are written."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from tests.documentation.test_documents import ROOT, blocks
from tests.integrations.studio import NAME, image_of

SUPERVISION, COCO = blocks(ROOT / "docs/libraries.md", "python")


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What an example defines, with a photograph and a mask in the folder that it runs in."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(image_of(), "photo.png")
    shutil.copyfile(image_of().parents[1] / "masks" / f"{NAME}.png", "coarse.png")
    return {}


def test_pycocotools_reads_our_run_lengths(names):
    pytest.importorskip("pycocotools")
    exec(COCO, names)
    np.testing.assert_array_equal(names["pixels"] > 0, names["result"].mask)
    assert names["annotation"]["area"] == names["pixels"].sum()
    left, top, width, height = names["annotation"]["bbox"]
    assert (left, top, left + width, top + height) == names["result"].box


def test_supervision_takes_our_results(names):
    pytest.importorskip("supervision", reason="supervision is not installed")
    exec(SUPERVISION, names)
    assert list(names["detections"].data["class_name"]) == ["the fox", "the red car"]
    assert names["annotated"].shape == np.asarray(Image.open("photo.png").convert("RGB")).shape
