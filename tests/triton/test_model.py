"""model.py, run in this process with a stand-in for Triton's module; `test_server.py` runs it in Triton."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segrefine import Refiner, Segmenter, ZeroShotSegmenter
from segrefine.assets import demo_bundle
from segrefine.cli.samples import Sample
from segrefine.errors import BackendError
from segrefine.runtime.chain import refine_segments
from tests.triton import stand_in
from tests.triton.conftest import as_texts
from tests.triton.stand_in import Logger, Request, TritonError

Open = Callable[..., Any]


@pytest.fixture
def open_model(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Runs a model's model.py as Triton does, up to its first request."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stand_in)
    opened = []

    def make(name: str, **options: str) -> Any:
        spec = importlib.util.spec_from_file_location("model", repository / name / "1/model.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        given = {"backend": "onnxruntime", "threads": "1", **options}
        parameters = {key: {"string_value": value} for key, value in given.items()}
        args = {"model_config": json.dumps({"parameters": parameters}), "model_repository": str(repository / name),
                "model_version": "1", "model_instance_kind": "CPU", "model_instance_device_id": "0"}  # fmt: skip
        model = module.TritonPythonModel()
        model.initialize(args)
        opened.append(model)
        return model

    yield make
    for model in opened:
        model.finalize()


def refine_request(*scenes: Sample, **changes: Any) -> Request:
    tensors: dict[str, Any] = {
        "image": np.stack([each.image for each in scenes]),
        "mask": np.stack([each.coarse[None] for each in scenes]),
        "label": as_texts([[each.label] for each in scenes]),
    }
    return Request({**tensors, **changes})


def segment_request(scene: Sample, *phrases: str | bytes, **changes: Any) -> Request:
    return Request({"image": scene.image[None], "phrases": as_texts([list(phrases)]), **changes})


def test_refines_as_the_refiner_does(open_model: Open, scenes: list[Sample], refiner: Refiner) -> None:
    first, second = scenes[0], scenes[1]
    seed = np.array([[7]], np.int64)
    answers = open_model("demo").execute([refine_request(first), refine_request(second, seed=seed)])
    for answer, scene, number in zip(answers, (first, second), (0, 7), strict=True):
        direct = refiner(scene.image, scene.coarse, scene.label, seed=number)
        assert np.array_equal(answer["mask"], direct.mask[None, None])
        assert np.array_equal(answer["probability"], direct.probability[None, None])


def test_several_labels_of_a_row_are_refined_jointly(
    open_model: Open, scenes: list[Sample], refiner: Refiner
) -> None:  # fmt: skip
    scene, other = scenes[0], np.roll(scenes[0].coarse, 40, 1)
    labels = [scene.label, "fox"]
    request = refine_request(scene, mask=np.stack([scene.coarse, other])[None], label=as_texts([labels]))
    (answer,) = open_model("demo").execute([request])
    direct = refiner(scene.image, [(scene.label, scene.coarse), ("fox", other)])
    assert np.array_equal(answer["mask"], np.stack([[each.mask for each in direct]]))
    uneven = refine_request(scene, label=as_texts([labels]))
    good, bad = open_model("demo").execute([refine_request(scene), uneven])
    assert good["mask"].any() and "got 2 labels and 1 masks" in str(bad.error)


def test_phrases_are_found_zero_shot_and_refined(open_model: Open, scenes: list[Sample], refiner: Refiner) -> None:
    scene = next(each for each in scenes if each.label == "butterfly")
    phrases, seed = ["the butterfly", "the car"], np.array([[3]], np.int64)
    bad = segment_request(scene, "fox " * 200)
    answer, refused = open_model("demo-words", zero_shot="true").execute(
        [segment_request(scene, *phrases, seed=seed), bad]
    )
    with ZeroShotSegmenter.from_bundle(demo_bundle(), threads=1) as find:
        found = find(scene.image, phrases, settings=find.settings.for_refining(), seed=3)
    direct = refine_segments(refiner, scene.image, found, jointly=True, seed=3).segments
    assert np.array_equal(answer["masks"][0], [each.mask for each in direct]) and answer["masks"].any()
    assert np.array_equal(answer["probabilities"][0], [each.probability for each in direct])
    assert refused.error.code == TritonError.INVALID_ARG and "too long" in refused.error.message


def test_rows_of_a_request_keep_their_order(open_model: Open, scenes: list[Sample], segmenter: Segmenter) -> None:
    first, second = (each for each in scenes[:2])
    rows = [first, second, first]
    phrases = [f"the {first.label}", f"the {second.label}", "the fox"]
    request = Request({"image": np.stack([each.image for each in rows]), "phrases": as_texts([[p] for p in phrases])})
    (answer,) = open_model("demo-gs").execute([request])
    for row, scene in enumerate(rows):
        (direct,) = segmenter(scene.image, [phrases[row]]).segments
        assert np.abs(answer["probabilities"][row, 0] - direct.probability).max() < 1e-3
    assert answer["masks"].shape == (3, 1, *first.image.shape[:2]) and answer["masks"].dtype == bool


def test_a_caption_gives_the_phrases(open_model: Open, scenes: list[Sample], segmenter: Segmenter) -> None:
    scene, model = scenes[0], open_model("demo-gs")
    captions = as_texts([["[the car] and the tree beside it"]])
    bare = Request({"image": scene.image[None]})
    both = segment_request(scene, "the car", caption=captions)
    uneven = Request({"image": np.stack([scene.image] * 2), "caption": as_texts([["a car"], ["a car and a tree"]])})
    answer, *refused = model.execute([Request({"image": scene.image[None], "caption": captions}), bare, both, uneven])
    direct = segmenter(scene.image, ["the car"]).segments
    assert np.array_equal(answer["masks"][0], [each.mask for each in direct])
    told = "got neither", "got both", r"as many phrases each, got [1, 2]"
    assert all(words in str(each.error) for words, each in zip(told, refused, strict=True))


@pytest.mark.parametrize("number", [1, 2])
def test_requests_on_images_of_one_size_are_one_batch(
    open_model: Open, scenes: list[Sample], segmenter: Segmenter, number: int
) -> None:
    model, batches = open_model("demo-gs"), []
    engines = model._answer.args[0].engines
    engine = engines["label_denoiser"]

    def count(feeds: dict[str, Any]) -> dict[str, Any]:
        batches.append(len(feeds["sample"]))
        return engine(feeds)

    engines["label_denoiser"] = count
    phrases = [("the fox",), ("the car", "the red car"), ("all apples",)]
    shown = [scenes[row % number] for row in range(len(phrases))]
    answers = model.execute([segment_request(scene, *each) for scene, each in zip(shown, phrases, strict=True)])
    together = list(batches)
    batches.clear()
    model.execute([segment_request(scenes[0], *sum(phrases, ()))])
    assert together == batches
    engines["label_denoiser"] = engine
    for answer, asked, scene in zip(answers, phrases, shown, strict=True):
        segments = segmenter(scene.image, asked).segments
        assert answer["masks"].shape[1] == len(segments)
        for row, segment in enumerate(segments):
            assert np.abs(answer["probabilities"][0, row] - segment.probability).max() < 1e-3
            assert np.abs(answer["uncertainty"][0, row] - segment.uncertainty).max() < 1e-3


def test_only_what_was_asked_for_is_given(open_model: Open, scenes: list[Sample]) -> None:
    request = refine_request(scenes[0])
    request.wanted = ["mask"]
    (answer,) = open_model("demo").execute([request])
    assert [each.name for each in answer.output_tensors] == ["mask"]


def test_bad_refining_takes_nothing_else_along(open_model: Open, scenes: list[Sample]) -> None:
    scene = scenes[0]
    bad = [
        refine_request(scene, mask=np.zeros((1, 1, 64, 64), np.float32)),
        refine_request(scene, label=as_texts([[" "]])),
        refine_request(scene, label=as_texts([[b"\xff"]])),
        refine_request(scene, mask=np.full_like(scene.coarse, np.nan)[None, None]),
    ]
    *failed, good = open_model("demo").execute([*bad, refine_request(scene)])
    assert [each.error.code for each in failed] == [TritonError.INVALID_ARG] * 4
    assert all("expected" in each.error.message or "empty" in each.error.message for each in failed)
    assert good["mask"].any()


def test_bad_segmenting_takes_nothing_else_along(open_model: Open, scenes: list[Sample]) -> None:
    scene = scenes[0]
    bad = [
        segment_request(scene, "fox " * 200),
        segment_request(scene, b"\xff"),
        segment_request(scene),
        segment_request(scene, "the car", seed=np.array([[-1]])),
    ]
    good, *failed = open_model("demo-gs").execute([segment_request(scene, "the fox"), *bad])
    assert [each.error.code for each in failed] == [TritonError.INVALID_ARG] * 4
    assert good["masks"].shape[1] == 1


def test_failure_is_logged(open_model: Open, scenes: list[Sample]) -> None:
    def fail(feeds: object) -> dict[str, Any]:
        raise RuntimeError("the engine broke")

    for name, request in (("demo", refine_request(scenes[0])), ("demo-gs", segment_request(scenes[0], "the fox"))):
        model = open_model(name)
        pipeline = model._answer.args[0]
        engine, pipeline.engines["vae_encoder"] = pipeline.engines["vae_encoder"], fail
        Logger.lines.clear()
        (answer,) = model.execute([request])
        assert answer.error.code == TritonError.INTERNAL and "the engine broke" in answer.error.message
        assert "Traceback" in Logger.lines[0] and "in fail" in Logger.lines[0]
        pipeline.engines["vae_encoder"] = engine


def test_backend_that_is_unknown(open_model: Open) -> None:
    with pytest.raises(BackendError, match="abacus"):
        open_model("demo", backend="abacus")
