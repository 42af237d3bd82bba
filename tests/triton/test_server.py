"""The repository in Triton itself, on this machine's CPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from segrefine import Bundle, Refiner, Segmenter
from segrefine.assets import demo_gs_bundle
from segrefine.cli.samples import Sample
from segrefine.triton.config import Serving
from segrefine.triton.repository import write_repository
from tests.triton.server import Triton, find_server, running

pytestmark = pytest.mark.skipif(find_server() is None, reason="no Triton server here (make .venv/.stamp-triton)")
_KINDS = {"UINT8": np.uint8, "FP32": np.float32, "BOOL": np.bool_}


@pytest.fixture(scope="module")
def triton(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    with running(repository, tmp_path_factory.mktemp("triton")) as server:
        yield server


def ask(triton: Triton, model: str, inputs: dict[str, tuple[str, Any]]) -> httpx.Response:
    """Asks as any client of Triton does, in JSON: inputs by name, each with its type and its rows."""
    tensors = [
        {"name": name, "datatype": kind, "shape": list(np.shape(values)), "data": np.asarray(values).ravel().tolist()}
        for name, (kind, values) in inputs.items()
    ]
    with triton.http() as http:
        return http.post(f"/v2/models/{model}/infer", json={"inputs": tensors})


def read(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {
        each["name"]: np.array(each["data"], _KINDS[each["datatype"]]).reshape(each["shape"])
        for each in answer.json()["outputs"]
    }


def refine_inputs(scene: Sample) -> dict[str, tuple[str, Any]]:
    image, mask = scene.image[None], scene.coarse[None, None]
    return {"image": ("UINT8", image), "mask": ("FP32", mask), "label": ("BYTES", [[scene.label]])}


def segment_inputs(scene: Sample, *phrases: str) -> dict[str, tuple[str, Any]]:
    return {"image": ("UINT8", scene.image[None]), "phrases": ("BYTES", [list(phrases)])}


def stats(triton: Triton, model: str) -> dict[str, Any]:
    with triton.http() as http:
        found: dict[str, Any] = http.get(f"/v2/models/{model}/stats").json()["model_stats"][0]
        return found


def test_model_was_warmed_up(triton: Triton) -> None:
    for model in ("demo", "demo-gs"):
        assert stats(triton, model)["inference_stats"]["success"]["count"] >= 1


def test_refines_as_the_refiner_does(triton: Triton, scenes: list[Sample], refiner: Refiner) -> None:
    scene = scenes[0]
    found = read(ask(triton, "demo", refine_inputs(scene)))
    direct = refiner(scene.image, scene.coarse, scene.label)
    assert np.abs(found["probability"][0] - direct.probability).max() < 1e-3
    assert (found["mask"][0, 0] != direct.mask).mean() < 1e-3
    seeded = read(ask(triton, "demo", {**refine_inputs(scene), "seed": ("INT64", [[5]])}))
    assert not np.array_equal(seeded["probability"], found["probability"])


def test_requests_with_other_phrases_are_batched(triton: Triton, scenes: list[Sample], segmenter: Segmenter) -> None:
    scene = scenes[0]
    asked = [("the fox",), ("the car", "the red car"), ("all apples",), (f"the {scene.label}",)] * 3
    before = stats(triton, "demo-gs")
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda phrases: read(ask(triton, "demo-gs", segment_inputs(scene, *phrases))), asked))
    after = stats(triton, "demo-gs")
    counted = [after[name] - before[name] for name in ("inference_count", "execution_count")]
    assert counted[0] == len(asked) and counted[1] < len(asked)
    for phrases, found in zip(asked, answers, strict=True):
        segments = segmenter(scene.image, phrases).segments
        assert found["uncertainty"].shape == found["masks"].shape == (1, len(phrases), *scene.image.shape[:2])
        for row, segment in enumerate(segments):
            assert np.abs(found["probabilities"][0, row] - segment.probability).max() < 1e-3


def test_errors_are_told_and_harm_nothing(triton: Triton, scenes: list[Sample]) -> None:
    scene = scenes[0]
    empty = {**refine_inputs(scene), "mask": ("FP32", np.zeros_like(scene.coarse)[None, None])}
    answer = ask(triton, "demo", empty)
    assert answer.status_code == 400 and "the mask is empty" in answer.json()["error"]
    assert ask(triton, "demo-gs", segment_inputs(scene, " ")).status_code == 400
    assert ask(triton, "demo", {"image": ("UINT8", scene.image[None])}).status_code == 400
    assert read(ask(triton, "demo", refine_inputs(scene)))["mask"].any()


def test_new_version_takes_over_while_requests_run(tmp_path: Path, scenes: list[Sample]) -> None:
    repository, bundle = tmp_path / "repository", Bundle.open(demo_gs_bundle())
    write_repository(bundle, repository, Serving(name="fox", threads=1))
    (tmp_path / "server").mkdir()
    with running(repository, tmp_path / "server", "--model-control-mode=poll", "--repository-poll-secs=1") as triton:
        write_repository(bundle, repository, Serving(name="fox", threads=1, version=2))
        versions, deadline = ["1"], time.monotonic() + 60
        while versions[-1] != "2":
            assert time.monotonic() < deadline, triton.log.read_text()
            answer = ask(triton, "fox", segment_inputs(scenes[0], "the fox"))
            read(answer)
            versions.append(answer.json()["model_version"])
        assert ask(triton, "fox", segment_inputs(scenes[0], "the fox")).json()["model_version"] == "2"
