"""The one table of notations and the one rule of detection, as batch, eval and training use them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from segrefine.assets import demo_samples
from segrefine.cli import main
from segrefine.datasets import opening
from segrefine.datasets.notation import Place
from segrefine.datasets.opening import NOTATIONS, detect_notation, read_pairs
from segrefine.runtime.files.output import save_label_map
from tests.datasets.toy_notation import Toy
from tests.datasets.trial import CAR, FOX, SIZE, save


def run(*words: object) -> dict:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_toy_notation_is_one_file_and_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "NOTATIONS", [Toy, *NOTATIONS])
    source, output, truth = (tmp_path / name for name in ("data", "out", "truth"))
    scene = "03-cactus-shift.png"
    image, mask = (Image.open(demo_samples() / kind / scene).resize((64, 64), 0) for kind in ("images", "masks"))
    coarse = np.asarray(mask) > 0
    save(source / "images/a.png", np.asarray(image))
    for folder in (source / "masks", truth):
        folder.mkdir(parents=True)
        rows = ("".join("01"[pixel] for pixel in row) for row in coarse.astype(int))
        (folder / "a.toy").write_text("\n".join(["cactus", *rows]))
    values = run("batch", source, output, "--workers", 1, "--threads", 1, "--json")
    assert (values["done"], values["masks_refined"]) == (1, 1) and values["options"]["notation"] == "toy"
    values = run("eval", output, truth, "--json")
    written = np.array([list(row) for row in (output / "masks/a.toy").read_text().splitlines()[1:]]) == "1"
    iou = (written & coarse).sum() / (written | coarse).sum()
    assert values["notation"] == "toy" and values["iou_of_classes"] == {"cactus": pytest.approx(iou)} and 0 < iou < 1
    [(pixels, pairs)] = read_pairs(source)
    assert pixels.shape == (64, 64, 3) and [label for label, _ in pairs] == ["cactus"]
    np.testing.assert_array_equal(pairs[0][1], coarse)


def place(folder, *, to_refine: bool, images: bool = True, **told) -> Place:
    found = folder / "images" if images else None
    return Place(masks=folder / "masks", images=found, root=folder, to_refine=to_refine, **told)


FILLS = {
    "class folders": {"fox/a.png": FOX, "car/sub/b.png": CAR},
    "label map": {"a.png": np.where(FOX, 7, np.where(CAR, 15, 0))},
    "class folders with indices": {"fox/a.png": np.where(FOX, 15, 0), "car/sub/b.png": np.where(CAR, 15, 0)},
    "splits": {"train/a.png": np.where(FOX, 7, 0), "val/b.png": np.where(CAR, 15, 0)},
}


FOUND = {"splits": "label map", "class folders with indices": "class folders"}


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("named", ["nothing", "labels", "classes"])
def test_batch_and_eval_detect_the_same(folder, fill, named):
    for name, pixels in FILLS[fill].items():
        (folder / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images/train").mkdir(exist_ok=True)
        (folder / "images/val").mkdir(exist_ok=True)
        save_label_map(folder / "masks" / name, pixels)
    told = {} if named == "nothing" else {named: folder / f"{named}.json"}
    expected = {"labels": "mask", "classes": "label map", "nothing": FOUND.get(fill, fill)}[named]
    for to_refine in (True, False):
        assert detect_notation(place(folder, to_refine=to_refine, **told)).title == expected


def test_masks_of_which_nothing_is_known(folder):
    save(folder / "masks/a.png", FOX)
    assert detect_notation(place(folder, to_refine=True)).title == "label map"  # whose reader asks for labels
    assert detect_notation(place(folder, to_refine=False)).title == "mask"


def test_pairs_for_training(folder):
    save_label_map(folder / "masks/a.png", np.where(FOX, 7, np.where(CAR, 15, 0)))
    for name in ("sub/a", "sub/b"):
        (folder / "masks/sub").mkdir(exist_ok=True)
        save_label_map(folder / f"masks/{name}.png", np.zeros(SIZE, np.uint8))
    (pixels, pairs), *empty = read_pairs(folder)
    assert pixels.shape == (*SIZE, 3) and [label for label, _ in pairs] == ["car", "person"]
    np.testing.assert_array_equal(pairs[0][1], FOX)
    assert [pairs for _, pairs in empty] == [[], []]
