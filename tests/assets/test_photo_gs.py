"""`photo-gs`, which `segrefine segment` takes where no bundle is named, on the photographs that ship."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from segrefine.assets import PHOTO_LABELS, PHOTO_PHRASE_WORDS, VOCABULARIES, photo_gs_bundle, photo_samples
from segrefine.cli import main
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.segmenter import Segmenter

LABELS = json.loads((photo_samples() / "labels.json").read_text("utf-8"))
KNOWN = {name: label for name, label in LABELS.items() if label in PHOTO_LABELS}


@pytest.fixture(scope="module")
def segmenter():
    with Segmenter.from_bundle("photo-gs", threads=1) as opened:
        yield opened


def test_a_word_finds_what_it_names(segmenter):
    found = []
    for name, label in KNOWN.items():
        image = photo_samples() / "images" / f"{name}.jpg"
        truth = np.asarray(Image.open(photo_samples() / "truth" / f"{name}.png").convert("L")) > 127
        found.append(iou(segmenter(image, [f"the {label}"]).segments[0].mask, truth))
    assert len(found) == 7
    assert np.mean(found) > 0.5
    assert min(found) > 0.2


def test_every_known_word_is_one_token_of_its_own(segmenter):
    words = sorted(PHOTO_PHRASE_WORDS)
    tokens = [segmenter.tokenizer(word)[0, 1] for word in words]
    assert len(set(tokens)) == len(words)


def test_segment_takes_it_where_no_bundle_is_named(tmp_path):
    image = photo_samples() / "images" / "chelsea.jpg"
    words = "segment", image, "the cat", "the sofa", "-o", tmp_path / "out.png", "--json"
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["segments"][0]["area"] > 0.1
    assert f"photo-gs does not know 'sofa'; it knows {VOCABULARIES['photo-gs'].known}" in done.stderr


def test_its_model_card_names_data_and_terms():
    card = (photo_gs_bundle().with_name("photo-gs-checkpoint") / "README.md").read_text("utf-8")
    for word in ("PASCAL VOC 2012", "COCO 2017", "terms", "steps", "Limits", "mean IoU"):
        assert word in card
