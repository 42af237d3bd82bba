from dataclasses import replace

import numpy as np

from segrefine.runtime.evidence import gather_evidence
from segrefine.runtime.imaging.edges import logit
from segrefine.settings import G4SegSettings

IMAGE = np.zeros((64, 64, 3), np.uint8)
IMAGE[:, :32] = 200
COARSE = np.zeros((16, 16), np.float32)
COARSE[4:12, 2:14] = 1
SETTINGS = G4SegSettings()


def test_what_the_text_names_gains_and_what_it_does_not_loses():
    text = np.where(np.arange(16) < 8, 0.2, 0.0).astype(np.float32) * np.ones((16, 1), np.float32)
    evidence = gather_evidence(IMAGE, COARSE, text, replace(SETTINGS, bias=0.0, prior_weight=0.0))
    assert (evidence[:, :7] > 0).all() and (evidence[:, 9:] < 0).all()


def test_without_text_the_coarse_mask_is_left():
    evidence = gather_evidence(IMAGE, COARSE, np.zeros((16, 16), np.float32), replace(SETTINGS, bias=0.25))
    np.testing.assert_allclose(evidence, SETTINGS.prior_weight * logit(COARSE) + 0.25, atol=1e-6)


def test_a_mask_that_is_nowhere_above_one_half_has_an_inside():
    evidence = gather_evidence(IMAGE, 0.4 * COARSE, np.ones((16, 16), np.float32), SETTINGS)
    assert evidence.dtype == np.float32 and np.isfinite(evidence).all()
