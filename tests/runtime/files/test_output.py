"""Results on disk: they read back as written, and nothing half-written stays."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segrefine.client.replies import SegmentPart
from segrefine.errors import MaskError, OutputError
from segrefine.picture_formats import PICTURE_FORMATS, Content, list_suffixes
from segrefine.runtime.files.image import load_image
from segrefine.runtime.files.mask import load_mask, read_mask
from segrefine.runtime.files.output import save_cutout, save_image, save_label_map, save_mask, save_probability
from tests.examples import examples

RNG = np.random.default_rng(3)
PROBABILITY = RNG.random((5, 7))
MASK = PROBABILITY > 0.5


def test_mask_reads_back(tmp_path: Path) -> None:
    save_mask(tmp_path / "mask.png", MASK)
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), np.where(MASK, 255, 0))
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.png", (5, 7)), MASK)


@pytest.mark.parametrize(("name", "error"), [("p.png", 0.5 / 65535), ("p.PNG", 0.5 / 65535), ("p.npy", 1e-7)])
def test_probability_reads_back(tmp_path: Path, name: str, error: float) -> None:
    save_probability(tmp_path / name, PROBABILITY)
    np.testing.assert_allclose(load_mask(tmp_path / name, (5, 7)), PROBABILITY, rtol=0, atol=error + 1e-7)


@pytest.mark.parametrize("name", ["p.png", "p.npy"])
def test_rounding_past_one_is_cut_off(tmp_path: Path, name: str) -> None:
    save_probability(tmp_path / name, np.array([[-1e-5, 1 + 1e-5]]))
    np.testing.assert_array_equal(load_mask(tmp_path / name, (1, 2)), [[0, 1]])


def test_image_reads_back(tmp_path: Path) -> None:
    image = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    save_image(tmp_path / "image.png", image)
    np.testing.assert_array_equal(load_image(tmp_path / "image.png"), image)


def test_an_older_file_is_replaced_and_nothing_else_stays(tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    file.write_bytes(b"old")
    save_mask(file, MASK)
    assert load_mask(file, (5, 7)).any()
    assert list(tmp_path.iterdir()) == [file]


PIXELS = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
"""Height, width and seed of a picture."""


@pytest.mark.parametrize("suffix", PICTURE_FORMATS)
@given(made=PIXELS)
@settings(max_examples=examples(25))
def test_every_format_gives_back_what_it_holds(tmp_path_factory, suffix: str, made: tuple[int, int, int]) -> None:
    height, width, seed = made
    rng, file = np.random.default_rng(seed), tmp_path_factory.mktemp("formats") / f"file{suffix}"
    image, opacity = rng.integers(0, 256, (height, width, 3)).astype(np.uint8), rng.random((height, width))
    mask = opacity > 0.5
    save_mask(file, mask)
    np.testing.assert_array_equal(read_mask(file), mask)
    save_image(file, image)
    np.testing.assert_array_equal(load_image(file), image)
    if suffix in list_suffixes("palette"):
        labels = rng.integers(0, 256, (height, width))
        save_label_map(file, labels)
        np.testing.assert_array_equal(np.asarray(Image.open(file)), labels)
    if suffix in list_suffixes("16 bits"):
        save_probability(file, opacity)
        np.testing.assert_array_equal(np.asarray(Image.open(file)), np.round(opacity * 65535))
    if suffix in list_suffixes("opacity"):
        save_cutout(file, image, [opacity * 0.5, opacity])
        alpha = np.round(opacity * 255)
        found = np.asarray(Image.open(file).convert("RGBA"))
        np.testing.assert_array_equal(found[..., 3], alpha)
        np.testing.assert_array_equal(found[alpha > 0, :3], image[alpha > 0])


@pytest.mark.parametrize(
    ("content", "write"),
    [
        ("palette", lambda file: save_label_map(file, np.array([[0, 1], [2, 3]]))),
        ("16 bits", lambda file: save_probability(file, PROBABILITY)),
        ("16 bits", lambda file: save_label_map(file, np.array([[0, 300]]))),
        ("opacity", lambda file: save_cutout(file, np.zeros((5, 7, 3), np.uint8), [PROBABILITY])),
    ],
)
def test_a_format_that_cannot_hold_a_picture_is_refused(tmp_path: Path, content: Content, write) -> None:
    unable = PICTURE_FORMATS.keys() - set(list_suffixes(content))
    assert unable
    for suffix in unable:
        with pytest.raises(OutputError, match=f"ends in {', '.join(list_suffixes(content))}") as caught:
            write(tmp_path / f"file{suffix}")
        assert content in str(caught.value) and caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_picture_that_is_too_wide_for_its_format_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="as WEBP"):
        save_mask(tmp_path / "mask.webp", np.zeros((1, 20_000), np.bool_))


def test_a_result_cuts_its_object_out_of_the_image() -> None:
    image = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    part = SegmentPart(phrase="fox", mask=MASK, confidence=1.0, probability=None, uncertainty=None)
    cut = np.asarray(part.cut_out(image))
    np.testing.assert_array_equal(cut[..., :3], image)
    np.testing.assert_array_equal(cut[..., 3], MASK * 255)
    with pytest.raises(MaskError, match="expected a mask of 7×3 pixels.*got 7×5"):
        part.cut_out(image[:3])


@pytest.mark.parametrize("name", ["mask.jpg", "mask", "", "mask.npy"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"ends in \.png") as caught:
        save_mask(tmp_path / name if name else "", MASK)
    assert caught.value.hint


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write .*No such file or directory") as caught:
        save_mask(tmp_path / "missing" / "mask.png", MASK)
    assert caught.value.hint


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="Not a directory"):
        save_mask(tmp_path / "file" / "mask.png", MASK)


def test_target_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mask.png").mkdir()
    with pytest.raises(OutputError, match="Is a directory"):
        save_mask(tmp_path / "mask.png", MASK)
    assert list(tmp_path.iterdir()) == [tmp_path / "mask.png"]


def test_read_only_folder(tmp_path: Path) -> None:
    """`/proc` lets nobody write, where a mode of 0o555 does not stop root."""
    folder = Path("/proc/self") if os.geteuid() == 0 else tmp_path
    if folder == tmp_path:
        tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="cannot write"):
        save_mask(folder / "mask.png", MASK)


def test_a_write_that_breaks_off_leaves_the_older_file(tmp_path: Path) -> None:
    file = tmp_path / "noise.npy"
    file.write_bytes(b"old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OutputError, match="File too large"):
            save_probability(file, RNG.random((64, 64)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
