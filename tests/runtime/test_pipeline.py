import numpy as np
import pytest

from segrefine.assets import demo_bundle
from segrefine.errors import ImageError, MaskError, PromptError, SettingsError
from segrefine.runtime.pipeline import Refiner
from segrefine.settings import G4SegSettings

IMAGE, MASK = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.float32)
MASK[5:10, 5:15] = 1


@pytest.fixture(scope="module")
def refiner():
    with Refiner.from_bundle(demo_bundle()) as opened:
        yield opened


@pytest.mark.parametrize(
    ("image", "mask", "label", "error", "message"),
    [
        (IMAGE / 255, MASK, "fox", ImageError, "got float64"),
        (IMAGE[..., 0], MASK, "fox", ImageError, r"got uint8 \(20, 30\)"),
        (IMAGE[:0], MASK[:0], "fox", ImageError, r"got uint8 \(0, 30, 3\)"),
        (IMAGE.tolist(), MASK, "fox", ImageError, "got list"),
        (IMAGE, MASK.tolist(), "fox", MaskError, "got list"),
        (IMAGE, MASK > 0, "fox", MaskError, "got bool"),
        (IMAGE, MASK[1:], "fox", MaskError, "expected a mask of 30×20 pixels"),
        (IMAGE, MASK, 3, PromptError, "expected a label as text, got 3"),
        (IMAGE, MASK, " ", PromptError, "expected a label that names something"),
    ],
)
def test_wrong_arguments_are_named(refiner, image, mask, label, error, message):
    with pytest.raises(error, match=message) as caught:
        refiner(image, mask, label)
    assert caught.value.hint


def test_timesteps_beyond_the_schedule_are_refused():
    with pytest.raises(SettingsError, match="timestep 1000: expected at most 999"):
        Refiner.from_bundle(demo_bundle(), settings=G4SegSettings(text_timesteps=(300, 1000)))


def test_one_seed_gives_one_mask_and_float64_masks_do_as_well(refiner):
    first, second, other = (refiner(IMAGE, MASK.astype(float), "fox", seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.probability, second.probability)
    assert np.any(first.text_evidence != other.text_evidence)
    assert first.mask.shape == MASK.shape and first.probability.dtype == np.float32
