"""GS's masks handed to G4Seg. The generated masks are painted: what a trained model finds is not the matter here."""

import numpy as np
import pytest

from segrefine.assets import demo_bundle, demo_samples
from segrefine.cli.samples import load_samples
from segrefine.errors import MaskError
from segrefine.runtime.chain import refine_segments
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.segmentation import Segmentation, read_samples


@pytest.fixture(scope="module")
def refiner():
    with Refiner.from_bundle(demo_bundle()) as opened:
        yield opened


@pytest.fixture(scope="module")
def sample():
    return load_samples(demo_samples())["02-car-erode"]


def painted(refiner, sample, phrase, mask):
    """A segment whose samples are `mask` on the model's grid."""
    fit = refiner.fit(sample.image)
    (segment,) = read_samples([phrase], fit.apply(mask)[None, None], fit, None)
    return segment


def test_refines_each_segment_under_its_own_label(refiner, sample):
    segment = painted(refiner, sample, "the car", sample.coarse)
    result = refine_segments(refiner, sample.image, Segmentation(segments=(segment,), seconds={}))
    wanted = refiner(sample.image, segment.probability, "car")
    (refined,) = result.segments
    np.testing.assert_allclose(refined.probability, wanted.probability, atol=1e-3)  # kept in half precision
    assert (refined.mask != segment.mask).any()
    assert refined.confidence == segment.confidence
    np.testing.assert_array_equal(result.label_map() == 1, refined.mask)


def test_empty_and_full_segments_stay_as_they_are(refiner, sample):
    empty, full = (painted(refiner, sample, "the car", np.full_like(sample.coarse, value)) for value in (0, 1))
    told = []
    result = refine_segments(
        refiner,
        sample.image,
        Segmentation(segments=(empty, full), seconds={}),
        progress=lambda what, share: told.append((what, share)),
    )
    assert result.segments == (empty, full)
    assert told == [("the car", 0), ("the car", 0.5)]


def test_another_image_is_refused(refiner, sample):
    segment = painted(refiner, sample, "the car", sample.coarse)
    with pytest.raises(MaskError, match="pixels"):
        refine_segments(refiner, sample.image[1:], Segmentation(segments=(segment,), seconds={}))
