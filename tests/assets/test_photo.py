"""`photo`, which `segrefine refine` takes where no bundle is named, on the photographs that ship."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from segrefine.assets import PHOTO_LABELS, PHOTO_PHRASE_WORDS, photo_checkpoint, photo_gs_checkpoint, photo_samples
from segrefine.cli.samples import load_samples
from segrefine.errors import ExportError
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.pipeline import Refiner


@pytest.fixture(scope="module")
def refiner():
    with Refiner.from_bundle("photo", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def photographs():
    return {name: each for name, each in load_samples(photo_samples()).items() if each.label in PHOTO_LABELS}


def test_masks_get_better_and_none_gets_worse(refiner, photographs):
    gains = []
    for each in photographs.values():
        refined = refiner(each.image, each.coarse, each.label)
        assert refined.evidence_worth is not None and refined.evidence_worth > 0
        gains.append(iou(refined.mask, each.truth) - iou(each.coarse > 0.5, each.truth))
    assert len(gains) == 7
    assert np.mean(gains) > 0.15
    assert min(gains) > -0.02


def test_it_knows_nothing_of_what_is_not_there(refiner, photographs):
    for each in photographs.values():
        refined = refiner(each.image, each.coarse, "banana")
        assert refined.evidence_worth == 0


def test_the_words_tell_the_object_without_any_mask(refiner, photographs):
    everywhere = {"worth_range": [], "text_strengths": [0.0], "edges": False}
    found = []
    for each in photographs.values():
        half = np.zeros(each.truth.shape, bool)
        half[: len(half) // 2] = True  # the evidence does not depend on it
        result = refiner(each.image, half, each.label, settings=everywhere, guard=False)
        found.append(iou(result.fit.restore(result.text_evidence) > 0, each.truth))
    assert min(found) > 0.65 and np.mean(found) > 0.75


def test_its_latents_give_a_rough_picture(refiner, photographs):
    likeness = []
    for each in photographs.values():
        fit = refiner.fit(each.image)
        picture = refiner.decode(refiner.encode_image(fit.image))
        assert picture.shape == fit.image.shape
        likeness.append(np.corrcoef(picture.ravel(), fit.image.ravel())[0, 1])
    assert np.mean(likeness) > 0.25


def test_a_checkpoint_without_a_decoder_is_told_before_the_export(tmp_path):
    folder = Path(shutil.copytree(photo_checkpoint(), tmp_path / "model"))
    shutil.rmtree(folder / "vae")
    shutil.copytree(photo_gs_checkpoint() / "vae", folder / "vae")
    with pytest.raises(ExportError, match="an image encoder without a decoder"):
        load_checkpoint(folder)


def test_every_known_word_is_one_token_of_its_own(refiner):
    words = sorted(PHOTO_PHRASE_WORDS)
    assert len({refiner.tokenizer(word)[0, 1] for word in words}) == len(words)


def test_its_model_card_names_data_and_terms():
    card = (photo_checkpoint() / "README.md").read_text("utf-8")
    for word in ("PASCAL VOC 2012", "COCO 2017", "terms", "Limits", "text gate", "mean IoU"):
        assert word in card


def test_its_settings_name_what_they_were_fitted_on(refiner):
    about = json.loads((refiner.bundle.path / "guard.json").read_text("utf-8"))["about"]
    assert about["images"] >= 40
