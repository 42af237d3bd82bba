"""Finding phrases with a model that refines: the same model does it zero-shot."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.serve.process import running
from segrefine.assets import demo_bundle, demo_samples
from segrefine.client import Client
from segrefine.engines import EngineOptions
from segrefine.runtime.chain import refine_segments
from segrefine.runtime.engine_set import PipelineSetup
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.zero_shot import ZeroShotSegmenter
from segrefine.serve.models import Offer, Served
from segrefine.serve.zero_shot import open_models

IMAGE = demo_samples() / "images" / "04-butterfly-ellipse.png"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    with running(tmp_path_factory.mktemp("words"), "demo") as started:
        yield started


def test_it_gives_the_masks_that_the_library_gives(alone):
    pixels = np.asarray(Image.open(IMAGE).convert("RGB"))
    with ZeroShotSegmenter.from_bundle(demo_bundle()) as segmenter, Refiner.from_bundle(demo_bundle()) as refiner:
        found = segmenter(pixels, ["the butterfly", "the rocket"], settings={"edges": False})
        wanted = refine_segments(refiner, pixels, found)
    with Client(alone.url) as client:
        answer = client.segment(IMAGE, ["the butterfly", "the rocket"])
    for got, expected in zip(answer.segments, wanted.segments, strict=True):
        np.testing.assert_array_equal(got.mask, expected.mask)


def test_it_says_what_it_serves_and_refuses_settings_of_label_diffusion(alone):
    with alone.http() as http:
        models = {each["endpoint"]: each for each in http.get("/v1/models").json()["models"]}
        assert models["/v1/segment"]["method"] == "zero-shot"
        assert models["/v1/segment"]["name"] == models["/v1/refine"]["name"] + "-words"
        refused = http.post(
            "/v1/segment", files={"image": IMAGE.read_bytes()}, data={"phrases": "the fox", "samples": "3"}
        )
    assert refused.status_code in (400, 422) and "zero-shot" in refused.text


def find(http, **data):
    return http.post("/v1/segment", files={"image": IMAGE.read_bytes()}, data={"phrases": "the butterfly", **data})


def test_beside_a_label_diffusion_model_it_is_chosen_by_name(http):
    """The service has `demo` and `demo-gs`, which is the default for phrases."""
    assert find(http).json()["model"] == "demo-gs"
    chosen = find(http, model="demo")
    assert chosen.status_code == 200, chosen.text
    assert chosen.json()["model"] == "demo-words" and "refine" in chosen.json()["seconds"]
    assert find(http, model="demo-words").json()["segments"] == chosen.json()["segments"]
    assert find(http, model="demo", settings='{"threshold": 9}').json()["segments"][0]["area"] == 0
    refused = find(http, model="other")
    assert refused.status_code == 404 and "demo-gs, demo-words" in refused.json()["expected"]


def test_uncertainty_takes_samples(http):
    refused = find(http, model="demo", maps="uncertainty")
    assert refused.status_code == 422 and "draws none" in refused.json()["got"]
    lone = find(http, maps="uncertainty", samples="1").json()
    assert any("no spread" in each for each in lone["warnings"])
    assert not any("no spread" in each for each in find(http, maps="uncertainty", samples="2").json()["warnings"])


def test_its_name_is_free(tmp_path):
    for name in ("demo", "demo-words"):
        (tmp_path / name).symlink_to(demo_bundle())
    offers = [_offer(tmp_path / name) for name in ("demo", "demo-words")]
    models = open_models(offers)
    try:
        names = [model.served.name for model in models]
    finally:
        for model in models:
            model.close()
    assert names == ["demo", "demo-words", "demo-words-words", "demo-words-words-words"]


def _offer(bundle):
    served = Served(name=bundle.name, backend="onnxruntime", device="cpu", precision="fp32")
    return Offer(served=served, method="g4seg", setup=PipelineSetup(bundle=bundle, engines=EngineOptions()))
