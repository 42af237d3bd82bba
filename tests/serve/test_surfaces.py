"""One image and one mask give one result on the command line, in Python, over HTTP, in a batch and in Triton."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
from segrefine.runtime.image import load_image
from segrefine.runtime.mask import load_mask
from segrefine.runtime.output import save_image, save_probability
from segrefine.triton.compute import refine_requests
from tests.batch.runs import refine as refine_batch
from tests.serve.test_api import picture

SCENE = load_samples(demo_samples())["02-car-erode"]
Mask = NDArray[np.bool_]


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
    found = {
        "command line": by_command(files, tmp_path / "mask.png", *words),
        "HTTP": by_http(http, files, loose),
        "batch": picture((tmp_path / "out/masks/a.png").read_bytes()) > 0,
    }
    if not loose:
        request = {"image": image[None], "mask": coarse[None], "label": np.array([[b"car"]], object)}
        (answer,) = refine_requests(refiner, [request])
        assert not isinstance(answer, Exception)
        found["Triton"] = answer["mask"][0]
    for name, mask in found.items():
        np.testing.assert_array_equal(mask, by_call.mask, err_msg=name)


def by_command(files: Files, output: Path, *words: str) -> Mask:
    result = CliRunner().invoke(
        main, ["refine", str(files.image), str(files.mask), "--label", "car", "-o", str(output), *words]
    )
    assert result.exit_code == 0, result.output
    return picture(output.read_bytes()) > 0


def by_http(http: httpx.Client, files: Files, loose: bool) -> Mask:
    data = {"label": "car"} | ({"guard": "false", "crop": "false"} if loose else {})
    pictures = {name: ("x.png", path.read_bytes()) for name, path in (("image", files.image), ("mask", files.mask))}
    answer = http.post("/v1/refine", files=pictures, data=data)
    assert answer.status_code == 200, answer.text
    return picture(json.loads(answer.text)["mask"]) > 0
