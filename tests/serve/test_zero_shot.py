"""Finding phrases with a service that only refines: the same model does it zero-shot."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.serve.process import running
from segrefine.assets import demo_bundle, demo_samples
from segrefine.client import Client
from segrefine.runtime.chain import refine_segments
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.zero_shot import ZeroShotSegmenter

IMAGE = demo_samples() / "images" / "04-butterfly-ellipse.png"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with running(tmp_path_factory.mktemp("words"), "demo") as started:
        yield started


def test_it_gives_the_masks_that_the_library_gives(service):
    pixels = np.asarray(Image.open(IMAGE).convert("RGB"))
    with ZeroShotSegmenter.from_bundle(demo_bundle()) as segmenter, Refiner.from_bundle(demo_bundle()) as refiner:
        found = segmenter(pixels, ["the butterfly", "the rocket"], settings={"edges": False})
        wanted = refine_segments(refiner, pixels, found)
    with Client(service.url) as client:
        answer = client.segment(IMAGE, ["the butterfly", "the rocket"])
    for got, expected in zip(answer.segments, wanted.segments, strict=True):
        np.testing.assert_array_equal(got.mask, expected.mask)


def test_it_says_what_it_serves_and_refuses_settings_of_label_diffusion(service):
    with service.http() as http:
        models = {each["endpoint"]: each for each in http.get("/v1/models").json()["models"]}
        assert models["/v1/segment"]["method"] == "zero-shot"
        assert models["/v1/segment"]["name"] == models["/v1/refine"]["name"] + "-words"
        refused = http.post(
            "/v1/segment", files={"image": IMAGE.read_bytes()}, data={"phrases": "the fox", "samples": "3"}
        )
    assert refused.status_code in (400, 422) and "zero-shot" in refused.text
