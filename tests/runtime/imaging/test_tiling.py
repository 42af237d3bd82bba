from __future__ import annotations

import numpy as np
import pytest

from segrefine.assets import demo_bundle, demo_samples
from segrefine.errors import SettingsError
from segrefine.runtime.files.image import load_image
from segrefine.runtime.imaging import tiling
from segrefine.runtime.imaging.tiling import map_tiles
from segrefine.runtime.pipeline import Refiner


def enlarge(values):
    return values.repeat(2, 2).repeat(2, 3)


@pytest.mark.parametrize("size", [(24, 30), (129, 40), (300, 257)])
def test_tiles_of_what_looks_at_one_pixel_are_the_whole(size):
    values = np.random.default_rng(0).standard_normal((2, 3, *size)).astype(np.float32)
    np.testing.assert_allclose(map_tiles(enlarge, values, per_latent=(1, 2)), enlarge(values), atol=1e-5)


def test_no_tile_is_larger_than_it_may_be_and_all_are_needed():
    seen = []

    def keep(values):
        seen.append(values.shape[2:])
        return values[:, :, ::4, ::4]

    result = map_tiles(keep, np.ones((1, 1, 4 * 300, 4 * 100), np.float32), per_latent=(4, 1))
    assert seen == [(4 * tiling.TILE, 4 * 100)] * 3
    np.testing.assert_allclose(result, np.ones((1, 1, 300, 100)), atol=1e-6)


@pytest.fixture(scope="module")
def refiner():
    with Refiner.from_bundle(demo_bundle(), resolution=256) as opened:
        yield opened


def test_a_large_image_is_encoded_in_tiles_nearly_as_in_one(refiner, monkeypatch):
    image = refiner.fit(load_image(demo_samples() / "images" / "02-car-erode.png")).image
    assert image.shape == (256, 256, 3)
    whole = refiner.encode_image(image)
    monkeypatch.setattr(tiling, "TILE", 16)
    monkeypatch.setattr(tiling, "OVERLAP", 4)
    tiled = refiner.encode_image(image)
    assert tiled.shape == whole.shape
    assert 0 < np.abs(tiled - whole).mean() < 0.2 * np.abs(whole).mean()
    pictures = refiner.decode(whole).astype(float), refiner.decode(tiled).astype(float)
    assert np.abs(pictures[0] - pictures[1]).mean() < 12  # of 255


@pytest.mark.parametrize("resolution", [0, 8, 100.5, 1025, 10**6])
def test_resolutions_that_no_model_has(resolution):
    with pytest.raises(SettingsError, match="resolution: expected 32 to 1024 pixels") as caught:
        Refiner.from_bundle(demo_bundle(), resolution=resolution)
    assert "trained on 64 pixels" in caught.value.hint
