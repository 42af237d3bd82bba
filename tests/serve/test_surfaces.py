"""One image and one mask give one result on the command line, in Python, over HTTP, in a batch and in Triton."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from segrefine import Refiner
from segrefine.assets import demo_bundle, demo_samples
from segrefine.cli import main
from segrefine.cli.samples import load_samples
from segrefine.runtime.files.image import load_image
from segrefine.runtime.files.mask import load_mask, read_mask
from segrefine.runtime.files.output import save_image, save_mask, save_probability
from segrefine.runtime.refinement import label_map
from segrefine.triton.compute import refine_requests
from tests.batch.runs import refine as refine_batch
from tests.serve.test_api import picture

SCENE = load_samples(demo_samples())["02-car-erode"]


@dataclass(frozen=True, kw_only=True)
class Files:
    """A data set of one image and one mask, of a car."""

    folder: Path

    @property
    def image(self) -> Path:
        return self.folder / "images" / "a.png"

    @property
    def mask(self) -> Path:
        return self.folder / "masks" / "a.png"


def write(folder: Path, image: NDArray[np.uint8], coarse: NDArray[np.float32]) -> Files:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    files = Files(folder=folder)
    save_image(files.image, image)
    save_probability(files.mask, coarse)
    (folder / "labels.json").write_text('{"a": "car"}')
    return files


def small(folder: Path) -> Files:
    """An object below one per cent of its image."""
    image = np.random.default_rng(0).integers(90, 140, (480, 640, 3), np.uint8)
    coarse = np.zeros((480, 640), np.float32)
    place = np.s_[200:264, 300:364]
    image[place], coarse[place] = SCENE.image[::2, ::2], SCENE.coarse[::2, ::2]
    return write(folder, image, coarse)


def soft(folder: Path) -> Files:
    """A mask that is blurred."""
    hard = Image.fromarray((SCENE.coarse * 255).astype(np.uint8))
    coarse = np.asarray(hard.resize((16, 16), Image.Resampling.BOX).resize(hard.size, Image.Resampling.BILINEAR)) / 255
    assert ((coarse > 0.1) & (coarse < 0.9)).mean() > 0.05
    return write(folder, SCENE.image, coarse.astype(np.float32))


@pytest.fixture(scope="module")
def refiner() -> Iterator[Refiner]:
    with Refiner.from_bundle(demo_bundle(), threads=1) as opened:
        yield opened


@pytest.mark.parametrize("make", [small, soft])
@pytest.mark.parametrize("loose", [False, True])
def test_every_surface_gives_one_mask(
    make, loose: bool, refiner: Refiner, http: httpx.Client, tmp_path: Path
) -> None:  # fmt: skip
    files = make(tmp_path / "data")
    image = load_image(files.image)
    coarse = load_mask(files.mask, image.shape[:2])
    words = ["--no-crop", "--no-guard"] if loose else []
    by_call = refiner(image, coarse, "car", crop=not loose, guard=not loose)
    assert (by_call.mask != (coarse > 0.5)).any() and (by_call.part is not None) == (make is small and not loose)

    refine_batch(files.folder, tmp_path / "out", "--workers", 1, *words)
    fields: dict[str, Any] = {"guard": "false", "crop": "false"} if loose else {}
    found = {
        "command line": by_command(tmp_path / "mask.png", files.image, files.mask, "--label", "car", *words) > 0,
        "HTTP": picture(by_http(http, files, **fields)["mask"]) > 0,
        "batch": read_mask(tmp_path / "out/masks/a.png") > 0.5,
    }
    if not loose:
        found["Triton"] = by_triton(refiner, image, {"car": coarse})[0]
    for name, mask in found.items():
        np.testing.assert_array_equal(mask, by_call.mask, err_msg=name)


def test_every_surface_gives_two_labels(refiner: Refiner, http: httpx.Client, tmp_path: Path) -> None:
    other = np.zeros_like(SCENE.coarse)
    other[10:50, 10:50] = 1
    files = write(tmp_path / "data", SCENE.image, SCENE.coarse)
    (tmp_path / "data/labels.json").unlink()
    masks = {"car": SCENE.coarse, "fox": other}
    for label, mask in masks.items():  # the same files serve the batch, as folders of classes
        folder = tmp_path / "data/masks" / label
        folder.mkdir()
        save_mask(folder / "a.png", mask > 0.5)
    files.mask.unlink()
    paths = [tmp_path / "data/masks" / label / "a.png" for label in masks]
    by_call = refiner(files.image, dict(zip(masks, paths, strict=True)))
    numbers = label_map(each.probability for each in by_call)
    assert all(each.mask.any() for each in by_call)

    words = [files.image, *paths, "--label", "car", "--label", "fox"]
    np.testing.assert_array_equal(by_command(tmp_path / "labels.png", *words), numbers)
    answer = by_http(http, files, masks=paths, label=["car", "fox"], maps="label_map")
    np.testing.assert_array_equal(picture(answer["label_map"]), numbers)
    refine_batch(files.folder, tmp_path / "out", "--workers", 1)
    by_batch = [read_mask(tmp_path / "out/masks" / label / "a.png") > 0.5 for label in masks]
    over_http = [picture(each["mask"]) > 0 for each in answer["masks"]]
    for each, *found in zip(by_call, by_batch, over_http, by_triton(refiner, SCENE.image, masks), strict=True):
        for mask in found:
            np.testing.assert_array_equal(mask, each.mask)


def test_marks_are_those_of_the_command_line(refiner: Refiner, http: httpx.Client, tmp_path: Path) -> None:
    files = write(tmp_path / "data", SCENE.image, SCENE.coarse)
    strokes = np.full(SCENE.coarse.shape, 128, np.uint8)
    strokes[60:64, 60:90] = 255
    Image.fromarray(strokes).save(tmp_path / "strokes.png")
    words = [files.image, "--label", "car", "--box=30,40,110,100", "--point=85,72", "--point=10,10,0"]
    by_words = by_command(tmp_path / "mask.png", *words, "--scribble", tmp_path / "strokes.png") > 0
    fields: dict[str, Any] = {"box": "30,40,110,100", "point": ["85,72", "10,10,0"]}
    answer = by_http(http, files, masks=[], scribble=tmp_path / "strokes.png", **fields)
    np.testing.assert_array_equal(picture(answer["mask"]) > 0, by_words)
    encoded = {name: base64.b64encode(path.read_bytes()).decode() for name, path in
               (("image", files.image), ("scribble", tmp_path / "strokes.png"))}  # fmt: skip
    body = {**encoded, "label": "car", "box": [[30, 40, 110, 100]], "point": [[85, 72], [10, 10, 0]]}
    np.testing.assert_array_equal(picture(http.post("/v1/refine", json=body).json()["mask"]) > 0, by_words)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": []}, "a picture mask, got none"),
        ({"box": "1,2,30,40"}, "a mask for each label, or marks of one object, got 1 masks and marks"),
        ({"masks": [], "box": "1,2,30"}, "expected numbers of pixels, such as 40,20,180,160"),
        ({"masks": [], "point": "x,2"}, "expected numbers of pixels, such as 90,75"),
        ({"masks": [], "box": "1,2,30,40", "label": ["car", "fox"]}, "got marks and 2 labels"),
        ({"label": ["car", "fox"]}, "a label for each mask, which makes 1, got 2 labels"),
        ({"label": []}, "a field label"),
    ],
)
def test_masks_labels_and_marks_that_do_not_fit(
    change: dict[str, Any], message: str, http: httpx.Client, tmp_path: Path
) -> None:
    files = write(tmp_path / "data", SCENE.image, SCENE.coarse)
    document = by_http(http, files, status=422, **change)
    assert message in document["detail"] and document["hint"], document


def by_command(output: Path, *words: object) -> NDArray[Any]:
    result = CliRunner().invoke(main, ["refine", *map(str, words), "--bundle", "demo", "-o", str(output)])
    assert result.exit_code == 0, result.output
    return picture(output.read_bytes())


def by_http(
    http: httpx.Client, files: Files, *, masks: Sequence[Path] | None = None, scribble: Path | None = None,
    status: int = 200, **fields: Any,
) -> dict[str, Any]:  # fmt: skip
    named = [("image", files.image), *(("mask", path) for path in ([files.mask] if masks is None else masks))]
    named += [("scribble", scribble)] if scribble else []
    pictures = [(name, ("x.png", path.read_bytes())) for name, path in named]
    answer = http.post("/v1/refine", files=pictures, data={"label": "car", **fields})
    assert answer.status_code == status, answer.text
    return dict(answer.json())


def by_triton(
    refiner: Refiner, image: NDArray[np.uint8], masks: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.bool_]:
    labels = np.array([[label.encode() for label in masks]], object)
    (answer,) = refine_requests(refiner, [{"image": image[None], "mask": np.stack(list(masks.values()))[None],
                                           "label": labels}])  # fmt: skip
    assert not isinstance(answer, Exception), answer
    return np.asarray(answer["mask"][0])
