"""The demo models in half precision against themselves in single, on ONNX Runtime."""

import numpy as np
import pytest

from segrefine.assets import demo_bundle, demo_gs_bundle, demo_samples
from segrefine.cli.samples import load_samples
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.segmenter import Segmenter


def test_refined_masks_are_the_same(half_demo_bundle):
    with Refiner.from_bundle(demo_bundle()) as single, Refiner.from_bundle(half_demo_bundle("demo")) as half:
        assert half.bundle.manifest.dtype == "fp16"
        for name, sample in load_samples(demo_samples()).items():
            given = sample.image, sample.coarse, sample.label
            ours, theirs = (refine(*given, guard=False, settings=single.settings) for refine in (half, single))
            assert np.isfinite(ours.probability).all()
            assert iou(ours.mask, theirs.mask) >= 0.99, name


@pytest.mark.slow
def test_generated_masks_are_the_same(half_demo_bundle):
    with Segmenter.from_bundle(demo_gs_bundle()) as single, Segmenter.from_bundle(half_demo_bundle("demo-gs")) as half:
        for name, sample in load_samples(demo_samples()).items():
            phrases = [f"the {sample.label}", "the background"]
            ours, theirs = (segment(sample.image, phrases).segments for segment in (half, single))
            for segment, wanted in zip(ours, theirs, strict=True):
                assert np.isfinite(segment.probability).all()
                assert iou(segment.mask, wanted.mask) >= 0.99, (name, segment.phrase)
