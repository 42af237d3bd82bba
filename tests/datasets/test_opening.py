"""The one table of notations and the one rule of detection, as batch, eval and training use them."""

from __future__ import annotations

import numpy as np
import pytest

from segrefine.datasets.notation import Place
from segrefine.datasets.opening import detect_notation, read_pairs
from segrefine.runtime.files.output import save_label_map
from tests.datasets.trial import CAR, FOX, SIZE, save


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
