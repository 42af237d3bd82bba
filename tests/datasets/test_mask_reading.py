"""Masks and label maps in data sets, for batch and eval: the same meaning in every encoding, or an error."""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from segrefine.batch.journal import summarise
from segrefine.batch.tools import Tools
from segrefine.batch.worker import Job, Read, attempt, read_item
from segrefine.datasets.items import read_image
from segrefine.datasets.notation import Place
from segrefine.datasets.opening import open_compared, open_data_set
from segrefine.errors import MaskError
from segrefine.runtime.engine_set import PipelineSetup
from tests.datasets.trial import SIZE
from tests.examples import examples
from tests.runtime.files.encodings import ALWAYS_READ, Encoded, encode, encode_npy, encoded_masks, raw_png

MAP = np.zeros(SIZE, np.uint8)
MAP[4:12, 3:14], MAP[10:20, 18:30] = 1, 2
CLASSES = ["background", "fox", "car"]
WITH_FILES = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def data_set(root: Path, content: bytes, size: tuple[int, int], below: str = "fox") -> Path:
    suffix = "npy" if content.startswith(b"\x93NUMPY") else "png"
    for old in [*root.glob(f"masks/{below}/a.*"), *root.glob("images/a.png")]:
        old.unlink()
    for folder in (root / "images", root / "masks" / below):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "masks" / below / f"a.{suffix}").write_bytes(content)
    (root / "images/a.png").write_bytes(encode(np.zeros((*size, 3), np.uint8)))
    return root


def place_of_masks(root: Path) -> Place:
    return Place(masks=root / "masks", images=root / "images", root=root, to_refine=False)


def check(encoded: Encoded, root: Path) -> None:
    """Read a mask as batch does, and as eval does."""
    truth = encoded.truth
    data_set(root, encoded.content, (truth.shape[0], truth.shape[1]))
    dataset = open_data_set(root)
    [item] = dataset.items
    try:
        found = dataset.read(item, read_image(item)).masks["fox"]
    except MaskError as error:
        assert error.hint and not encoded.how.startswith(ALWAYS_READ)
    else:
        assert isinstance(found, np.ndarray) and np.abs(found - truth).max() <= encoded.error
    [compared] = open_compared([place_of_masks(root)])
    try:
        judged = compared.read(compared.entries["a"]).masks["fox"]
    except MaskError as error:
        assert error.hint and not encoded.how.startswith(ALWAYS_READ)
    else:
        assert isinstance(judged, np.ndarray)
        far = np.abs(truth - 0.5) > encoded.error
        np.testing.assert_array_equal(np.asarray(judged > 0.5)[far], (truth > 0.5)[far])


@settings(parent=WITH_FILES, max_examples=examples(100))
@given(encoded=encoded_masks())
def test_a_mask_means_the_same_however_it_is_encoded(encoded: Encoded, tmp_path: Path) -> None:
    check(encoded, tmp_path)


@pytest.mark.slow
@settings(parent=WITH_FILES, max_examples=examples(2000))
@given(encoded=encoded_masks())
def test_a_mask_means_the_same_however_it_is_encoded_often(encoded: Encoded, tmp_path: Path) -> None:
    check(encoded, tmp_path)


def read_map(root: Path, content: bytes, classes: list[str]) -> NDArray[np.int64]:
    """A label map as batch reads it, drawn again with the indices of its classes."""
    data_set(root, content, SIZE, below=".")
    (root / "classes.json").write_text(json.dumps(classes))
    dataset = open_data_set(root)
    [item] = dataset.items
    parts = dataset.read(item, read_image(item))
    drawn = np.where(parts.ignored, 255, 0)
    for name, mask in parts.masks.items():
        assert isinstance(mask, np.ndarray)
        drawn[mask] = classes.index(str(name))
    return drawn


def palette_png(indices: NDArray[np.uint8], colours: list[tuple[int, int, int]], **options: Any) -> bytes:
    image = Image.fromarray(indices, "P")
    image.putpalette([part for colour in colours for part in colour])
    return encode(image, **options)


GREY = [(level, level, level) for level in (9, 2, 1, 0)]
MAPS = {
    "grey of 8 bits": encode(MAP),
    "grey of 16 bits": encode(MAP.astype(np.uint16)),
    "grey of 4 bits": raw_png(MAP, 4),
    "grey of 2 bits": raw_png(MAP, 2),
    "grey of 4 bits, transparent background": raw_png(MAP, 4, tRNS=b"\0\0"),
    "grey, transparent background": encode(MAP, transparency=0),
    "grey in RGB": encode(np.dstack([MAP] * 3)),
    "grey with opaque alpha": encode(Image.merge("LA", [Image.fromarray(MAP), Image.new("L", SIZE[::-1], 255)])),
    "npy": encode_npy(MAP.astype(np.int64)),
    "colours": palette_png(MAP, [(0, 0, 0), (128, 0, 0), (0, 128, 0)]),
    "colours, white background": palette_png(MAP, [(255, 255, 255), (128, 0, 0), (0, 128, 0)]),
    "colours, transparent background": palette_png(MAP, [(0, 0, 0), (128, 0, 0), (0, 128, 0)], transparency=0),
    "greys in another order": palette_png(3 - MAP, GREY),
    "greys that show indices": palette_png(MAP, [(0, 0, 0), (127, 127, 127), (254, 254, 254)]),
}


@pytest.mark.parametrize("how", MAPS)
def test_a_label_map_means_the_same_however_it_is_encoded(tmp_path: Path, how: str) -> None:
    np.testing.assert_array_equal(read_map(tmp_path, MAPS[how], CLASSES), MAP)


def test_what_is_transparent_is_background_and_what_is_of_no_class_stays_so(tmp_path: Path) -> None:
    colours = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (0, 0, 128)]
    found = read_map(tmp_path, palette_png(np.where(MAP == 2, 3, MAP), colours, transparency=3), [*CLASSES, "tree"])
    np.testing.assert_array_equal(found, np.where(MAP == 1, 1, 0))
    found = read_map(tmp_path, encode(np.where(MAP == 2, 255, MAP).astype(np.uint8), transparency=255), CLASSES)
    np.testing.assert_array_equal(found, np.where(MAP == 2, 255, MAP))


@settings(parent=WITH_FILES, max_examples=examples(60))
@given(order=st.permutations(range(6)), has_many_names=st.booleans(), step=st.sampled_from([1, 2, 3]))
def test_greys_are_read_by_what_has_names_or_asked(
    order: list[int], has_many_names: bool, step: int, tmp_path: Path
) -> None:
    """A program has turned a grey label map into a palette: its indices are arbitrary, its levels are the classes."""
    colours = [(level * step,) * 3 for level in np.argsort(order).tolist()]
    content = palette_png(np.array(order, np.uint8)[MAP], [tuple(colour) for colour in colours])
    names = ["background", *(f"class {index}" for index in range(1, 7 if has_many_names else 1 + 2 * step))]
    try:
        found = read_map(tmp_path, content, names)
    except MaskError as error:
        assert "palette of greys" in str(error) and error.hint
        assert set(order[:3]) <= set(range(len(names)))  # the indices have names as well
    else:
        np.testing.assert_array_equal(found, MAP * step)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encode(Image.fromarray(MAP * np.uint8(100)), "JPEG"), "a format that alters indices"),
        (encode(np.dstack([MAP, MAP * 2, MAP])), "got colours"),
        (palette_png(MAP, [(0, 0, 0), (2, 2, 2), (1, 1, 1)]), "its indices are 0, 1 and 2, its levels 0, 1 and 2"),
        (encode(Image.merge("LA", [Image.fromarray(MAP)] * 2)), "an opacity of 0, 1 and 2 of 255"),
    ],
)
def test_label_maps_that_can_be_read_in_two_ways_are_asked(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(MaskError, match=message) as caught:
        read_map(tmp_path, content, CLASSES)
    assert caught.value.hint


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_batch_tells_which_images_are_turned_and_copies_what_has_nothing_to_refine(
    tmp_path: Path, orientation: int
) -> None:
    root, exif = data_set(tmp_path / "data", encode(np.zeros((8, 8), np.uint16)), (8, 8)), Image.Exif()
    exif[0x0112] = orientation
    (root / "images/a.png").write_bytes(encode(np.zeros((8, 8, 3), np.uint8), exif=exif))
    job = Job(source=root, images=None, output=tmp_path / "out", setup=PipelineSetup(bundle="demo"))
    dataset = job.open_dataset()
    [item] = dataset.items
    read: Future[Read] = Future()
    read.set_result(read_item(job, dataset, item))
    entry = attempt(job, dataset, Tools(None, None), item, read)  # nothing to refine takes no refiner
    assert (entry.status, entry.masks, entry.left) == ("done", 0, 1), entry
    turned = {1: [], 3: ["a: turned by 180°"], 6: ["a: turned by 90° to the right"]}
    assert summarise([entry], {})["turned_images"] == turned[orientation]
    assert (tmp_path / "out/masks/fox/a.png").read_bytes() == (root / "masks/fox/a.png").read_bytes()
