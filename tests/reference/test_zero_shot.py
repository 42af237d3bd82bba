"""Zero-shot segmentation in PyTorch against the runtime."""

import numpy as np

from segrefine.assets import demo_bundle, demo_checkpoint, demo_samples
from segrefine.cli.samples import load_samples
from segrefine.export.comparison import ParityScene
from segrefine.export.zero_shot_parity import run_zero_shot_reference
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.reference.zero_shot import ZeroShot
from segrefine.runtime.zero_shot import ZeroShotSegmenter
from segrefine.settings import ZeroShotSettings


def test_phrases_that_read_alike_are_one_phrase_on_both_sides():
    sample = load_samples(demo_samples())["04-butterfly-ellipse"]
    scene = ParityScene(image=sample.image, coarse=sample.coarse, label="butterfly")
    reference = ZeroShot(load_checkpoint(demo_checkpoint()), ZeroShotSettings())
    phrases = ["butterfly", "the rocket", "the Butterfly"]
    with ZeroShotSegmenter.from_bundle(demo_bundle(), threads=1) as segmenter:
        ours = segmenter.look(scene.image, phrases).maps
        theirs = run_zero_shot_reference(segmenter, reference, scene, phrases)
    for got, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got.probability, wanted.probability, atol=2e-3)
    assert theirs[0].probability.max() > 0.5
    np.testing.assert_array_equal(theirs[0].probability, theirs[2].probability)
