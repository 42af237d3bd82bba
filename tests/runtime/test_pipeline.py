import numpy as np
import pytest
from PIL import Image

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
        (IMAGE - 5.0, MASK, "fox", ImageError, "got float64"),
        (IMAGE[..., :2], MASK, "fox", ImageError, r"got an array of shape \(20, 30, 2\)"),
        (IMAGE[:0], MASK[:0], "fox", ImageError, r"got uint8 \(0, 30, 3\)"),
        (IMAGE.tolist(), MASK, "fox", ImageError, "expected an image, got list"),
        (IMAGE, MASK.tolist(), "fox", MaskError, "expected a mask, got list"),
        (IMAGE, [("fox", MASK)], "fox", MaskError, "expected a mask, got list"),
        (IMAGE, MASK[None, None] * 2, "fox", MaskError, "expected"),
        (IMAGE, MASK[1:], "fox", MaskError, "expected a mask of 30×20 pixels"),
        (IMAGE, MASK, 3, PromptError, "expected a label as text, got 3"),
        (IMAGE, MASK, " ", PromptError, "expected a label that names something"),
    ],
)
def test_wrong_arguments_are_named(refiner, image, mask, label, error, message):
    with pytest.raises(error, match=message) as caught:
        refiner(image, mask, label)
    assert caught.value.hint


def test_what_people_have_is_taken(refiner, tmp_path):
    soft, hard = MASK.astype(np.float32), MASK > 0
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    Image.fromarray(hard.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    wanted = refiner(IMAGE, soft, "fox").probability
    pictures = [tmp_path / "image.png", (tmp_path / "image.png").read_bytes(), Image.fromarray(IMAGE), IMAGE / 255]
    masks = [str(tmp_path / "mask.png"), hard, hard.astype(np.uint8) * 255, Image.open(tmp_path / "mask.png")]
    for image, mask in zip(pictures, masks, strict=True):
        np.testing.assert_array_equal(refiner(image, mask, "fox").probability, wanted)
        np.testing.assert_array_equal(refiner(image, {"fox": mask})[0].probability, wanted)


def test_timesteps_beyond_the_schedule_are_refused():
    with pytest.raises(SettingsError, match="timestep 1000: expected at most 999"):
        Refiner.from_bundle(demo_bundle(), settings=G4SegSettings(text_timesteps=(300, 1000)))


def test_one_seed_gives_one_mask_and_float64_masks_do_as_well(refiner):
    first, second, other = (refiner(IMAGE, MASK.astype(float), "fox", seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.probability, second.probability)
    assert np.any(first.text_evidence != other.text_evidence)
    assert first.mask.shape == MASK.shape and first.probability.dtype == np.float32
