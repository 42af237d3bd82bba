from __future__ import annotations

import cv2
import numpy as np
import pytest

from benchmarks import baselines
from benchmarks.baselines import BASELINES
from benchmarks.evaluate import iou
from segrefine.evaluation.bench.baselines import dense_crf, disc

each_baseline = pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)


def coloured_disc(height=64, width=64):
    rows, columns = np.mgrid[0:height, 0:width]
    truth = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (0.2 * min(height, width)) ** 2
    image = np.where(truth[..., None], (210, 50, 40), (40, 90, 60))
    noise = np.random.default_rng(0).normal(0, 12, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), truth


def grown(truth, share=0.2):
    return cv2.dilate(truth.astype(np.float32), disc(share * np.sqrt(truth.sum())))


@each_baseline
@pytest.mark.parametrize("shape", [(64, 64), (160, 120)], ids=["exact", "subsampled"])
def test_baseline_shrinks_a_grown_mask_to_the_disc(baseline, shape):
    image, truth = coloured_disc(*shape)
    coarse = grown(truth)
    mask = baseline(image, coarse)
    assert mask.dtype == np.bool_ and mask.shape == truth.shape
    assert iou(coarse > 0.5, truth) < 0.6
    assert iou(mask, truth) > 0.8


@each_baseline
def test_baseline_is_deterministic_and_leaves_its_input_alone(baseline):
    image, truth = coloured_disc()
    coarse = grown(truth)
    before = image.copy(), coarse.copy()
    assert np.array_equal(baseline(image, coarse), baseline(image, coarse))
    assert np.array_equal(image, before[0]) and np.array_equal(coarse, before[1])


@each_baseline
def test_soft_mask_is_welcome(baseline):
    image, truth = coloured_disc()
    soft = cv2.GaussianBlur(truth.astype(np.float32), (0, 0), 3)
    assert iou(baseline(image, soft), truth) > 0.8


@each_baseline
@pytest.mark.parametrize("value", [0.0, 1.0], ids=["empty", "full"])
def test_empty_and_full_masks_come_back(baseline, value):
    image, _ = coloured_disc()
    coarse = np.full(image.shape[:2], value, np.float32)
    assert np.array_equal(baseline(image, coarse), coarse > 0.5)


@each_baseline
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 40)])
def test_tiny_images_are_survived(baseline, shape):
    coarse = np.zeros(shape, np.float32)
    coarse[0, 0] = 1
    mask = baseline(np.full((*shape, 3), 128, np.uint8), coarse)
    assert mask.shape == shape and mask.dtype == np.bool_


@each_baseline
@pytest.mark.filterwarnings("error")
def test_plain_colour_is_survived(baseline):
    _, truth = coloured_disc()
    mask = baseline(np.full((*truth.shape, 3), 128, np.uint8), grown(truth))
    assert mask.shape == truth.shape and mask.dtype == np.bool_


def test_subsampled_crf_agrees_with_the_exact_one(monkeypatch):
    image, truth = coloured_disc()
    exact = dense_crf(image, grown(truth))
    monkeypatch.setattr("segrefine.evaluation.bench.baselines.DENSE_ENTRIES", 18**4)
    sampled = dense_crf(image, grown(truth))
    assert not np.array_equal(exact, sampled)
    assert iou(exact, sampled) > 0.95


def test_guided_filter_keeps_what_is_linear_in_colour():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    coarse = (image @ np.array([0.5, 0.3, 0.2]) / 255).astype(np.float32)
    assert iou(baselines.guided_filter(image, coarse), coarse > 0.5) > 0.98
